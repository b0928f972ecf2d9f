"""Segmenters on the nets of the family: decoders of the libraries, and what these lack."""
