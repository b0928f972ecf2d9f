"""Images with a class for every pixel: layouts, their check, transforms, batches, and scenes."""
