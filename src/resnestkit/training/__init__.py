"""Training: the one loop, its typed recipe, and the run folder it leaves."""
