"""The Celery application, its one task, and the pipeline of stages behind it."""
