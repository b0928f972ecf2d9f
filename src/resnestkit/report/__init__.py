"""Reports: figures and one self-contained page, from plain numbers."""
