"""Samplers: which candidate a search tries next."""
