"""``python -m desk``: the desk's server, configured by ``DERMBATCH_*`` variables."""

from __future__ import annotations

import ipaddress
import sys

import structlog
import uvicorn
from prometheus_client import start_http_server

from dermbatch.errors import UsageError
from dermbatch.log import configure
from dermbatch.settings import DeskSettings, load
from desk.app import application
from desk.desk import Desk

_log = structlog.get_logger(__name__)

_STOPPING = 5


def check(settings: DeskSettings) -> None:
    """Refuse to serve anybody who can reach the port.

    Raises:
        UsageError: Where it is to listen beyond the loopback without a proxy that says who asks.
    """
    loopback = ipaddress.ip_address(settings.listen_address).is_loopback
    if settings.user_header is not None and not settings.proxies:
        raise UsageError("DERMBATCH_DESK__USER_HEADER needs DERMBATCH_DESK__PROXIES: who is believed this header")
    if not loopback and settings.user_header is None:
        raise UsageError(
            f"the desk listens on {settings.listen_address} only behind a proxy that authenticates: set "
            "DERMBATCH_DESK__USER_HEADER and DERMBATCH_DESK__PROXIES"
        )


def main() -> None:
    """Serve until SIGTERM."""
    try:
        settings = load()
        check(settings.desk)
    except UsageError as error:
        sys.exit(f"dermbatch: {error}")
    configure(settings.log_level)
    if settings.desk.metrics_port:
        start_http_server(settings.desk.metrics_port, addr=settings.desk.metrics_address)
    _log.info("desk ready", port=settings.desk.listen_port)
    uvicorn.run(
        application(Desk.of(settings)),
        host=settings.desk.listen_address,
        port=settings.desk.listen_port,
        log_config=None,
        access_log=False,  # names of batches and queries may be patients'
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=_STOPPING,
    )


if __name__ == "__main__":
    main()
