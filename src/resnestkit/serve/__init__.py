"""A trained model as an HTTP service, with a page to look at what it says."""
