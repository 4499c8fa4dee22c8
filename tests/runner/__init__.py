"""Run the parts of a `make` target and leave no process behind."""
