"""Recipes: one short file per setting; each docstring says how to run it and what comes out."""
