"""Stage 2: a recipe becomes a checked plan: every output tensor's name, shape, dtype and how it is computed."""
