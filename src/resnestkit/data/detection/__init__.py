"""Images with boxes and masks: COCO files, their check, transforms, batches, and made-up shapes."""
