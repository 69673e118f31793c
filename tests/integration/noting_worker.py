"""A worker of one slot whose task only notes which message it was given: a program for tests."""

import redis
from celery import Celery

from dermbatch.ledger.queue import TASK, celery_config
from dermbatch.settings import load
from workers.process.app import TRANSPORT, worker_arguments


def main():
    settings = load()
    settings = settings.model_copy(update={"worker": settings.worker.model_copy(update={"concurrency": 1})})
    app = Celery("noting")
    app.conf.update(celery_config(settings.redis, bulk_share=settings.ledger.bulk_share))
    app.conf.broker_transport = TRANSPORT

    @app.task(name=TASK)
    def note(message):
        import json

        with redis.Redis.from_url(settings.redis.url) as client:
            client.rpush("tests:taken", json.dumps(message))

    app.worker_main(worker_arguments(settings))


if __name__ == "__main__":
    main()
