"""What the intake and the workers share. Uses no HTTP server, no Celery and no cloud SDK."""
