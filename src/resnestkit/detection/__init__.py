"""Detectors on the nets of the family, of torchvision's parts and what these lack."""
