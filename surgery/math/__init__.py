"""The one home of shared arithmetic: selection, counter-based random numbers, Gram-space sums."""
