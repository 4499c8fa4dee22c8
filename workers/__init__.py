"""The workers: Celery tasks that claim tickets and have a cloud's plugin publish their images."""
