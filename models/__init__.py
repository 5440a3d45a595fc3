"""What is true: tables and legal state transitions. Knows neither QEMU nor Celery."""
