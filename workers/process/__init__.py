"""The worker as a process: its Celery application, its one task, leases, what leaves with a result, its end."""
