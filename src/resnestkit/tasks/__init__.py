"""Tasks: what a model is for: its data, its loss, its metric."""
