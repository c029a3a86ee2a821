"""Evaluators: what a candidate of a search is worth."""
