"""Panoptic FPN on the nets of the family: the detectors' Mask R-CNN with a branch for stuff."""
