"""Quantized checkpoints as sources: their tensors are decoded range by range while they are read."""
