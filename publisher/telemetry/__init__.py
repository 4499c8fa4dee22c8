"""Logs, traces and metrics, and who may read them."""
