"""What is true: tables, legal state transitions, settings and errors. Knows neither QEMU nor Celery."""
