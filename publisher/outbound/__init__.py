"""Outbound connections on behalf of callers: which ones are allowed, and the HTTP clients that obey that."""
