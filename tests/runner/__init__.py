"""Runs the parts of a `make` target and leaves no process behind."""
