"""A simulated fleet: what Drover's controller, database and broker carry as hosts and guests become more.

Real are the controller, Postgres, Redis, Celery's messages, the claims, every row and every transition. Simulated are
the workers: `fake_worker.py` serves the queues of many hosts in one process, and where a worker would use a QEMU it
waits for as long as that would take. So what a host itself spends is not measured here.
"""
