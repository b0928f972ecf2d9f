"""Data: images read without surprises, splits, transforms and loaders."""
