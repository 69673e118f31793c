"""The local stack: Redis, S3, Triton, a worker and the orchestrator as processes of this machine."""
