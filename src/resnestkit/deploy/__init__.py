"""Deployment: a trained net as something that answers."""
