"""The worker's transport and a Redis that does not answer."""

import socket

import pytest
from kombu import Connection
from kombu.exceptions import OperationalError

from dermbatch.ledger.queue import SOCKET_TIMEOUT, celery_config
from dermbatch.settings import RedisSettings
from workers.process.transport import Transport


def test_a_redis_that_says_nothing_does_not_hold_a_worker_for_ever():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        options = celery_config(RedisSettings(url=url))["broker_transport_options"]
        assert options["socket_timeout"] == SOCKET_TIMEOUT > Transport.brpop_timeout
        connection = Connection(url, transport=Transport, transport_options={**options, "socket_timeout": 0.2})
        with connection, pytest.raises(OperationalError, match="Timeout reading"):
            connection.ensure_connection(max_retries=1, interval_start=0.01)
