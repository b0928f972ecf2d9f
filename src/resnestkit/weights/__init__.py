"""Weights: typed checkpoints, and what they say of the net inside."""
