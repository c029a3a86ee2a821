"""Activations of a model, one transformer block at a time: statistics that ops of later steps need."""
