"""What the service may connect to for its callers, and the HTTP clients that obey it."""
