"""Images with segments: what a panoptic net learns of them, and what it is measured by."""
