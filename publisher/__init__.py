"""Publishes machine images to clouds, asynchronously."""
