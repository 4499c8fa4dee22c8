"""Outbound connections on behalf of callers: which ones are allowed, and the early check of a request."""
