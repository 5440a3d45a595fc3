"""Tables, legal state transitions and the documents in JSON columns. Imports nothing of QEMU or Celery."""
