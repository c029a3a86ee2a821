"""Stage 1: a YAML text becomes a Recipe."""
