"""Celery on Redis: the application, and what makes its delivery safe against outages and malformed messages."""
