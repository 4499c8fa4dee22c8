"""What the intake and the workers share. Knows no HTTP server, no Celery and no cloud SDK."""
