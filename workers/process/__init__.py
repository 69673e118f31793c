"""The worker as a process: its Celery application, its one task, leases, and how it ends."""
