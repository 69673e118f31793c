"""``python -m desk``: the desk's server, configured by ``DERMBATCH_*`` variables."""

from __future__ import annotations

import ctypes
import ipaddress
import sys

import pyarrow as pa
import structlog
import uvicorn
from prometheus_client import start_http_server

from dermbatch.errors import UsageError
from dermbatch.log import configure
from dermbatch.settings import TenantSettings, load
from dermbatch.settings.desk import DeskSettings
from desk.app import application
from desk.desk import Desk
from orchestrator.planning.tenants.tenant import load_tenants

_log = structlog.get_logger(__name__)

_STOPPING = 5

_TRIM, _MAP = (-1, 1 << 20), (-3, 128 << 10)
"""``M_TRIM_THRESHOLD`` and ``M_MMAP_THRESHOLD`` of glibc's ``malloc.h``, in bytes; set, they move no more."""


def check(settings: DeskSettings, tenants: TenantSettings) -> None:
    """Refuse to run if anybody who can reach the port would be served.

    Raises:
        UsageError: If it is to listen beyond the loopback with nothing to say who asks, or to separate tenants
            that are not declared.
    """
    loopback = ipaddress.ip_address(settings.listen_address).is_loopback
    if settings.user_header is not None and not settings.proxies:
        raise UsageError(
            "DERMBATCH_DESK__USER_HEADER needs DERMBATCH_DESK__PROXIES, which says whose header is believed"
        )
    if settings.tenant_header is not None and settings.user_header is None:
        raise UsageError("DERMBATCH_DESK__TENANT_HEADER needs DERMBATCH_DESK__USER_HEADER, which says who asks")
    if settings.tenant_header is not None and tenants.file is None:
        raise UsageError(
            "DERMBATCH_DESK__TENANT_HEADER needs DERMBATCH_TENANTS__FILE, which says whose each prefix is"
        )
    if settings.oidc.tenant_claim is not None and tenants.file is None:
        raise UsageError(
            "DERMBATCH_DESK__OIDC__TENANT_CLAIM needs DERMBATCH_TENANTS__FILE, which says whose each prefix is"
        )
    if not loopback and settings.user_header is None and settings.oidc.issuer is None:
        raise UsageError(
            f"the desk listens on {settings.listen_address} only behind a proxy that authenticates (set "
            "DERMBATCH_DESK__USER_HEADER and DERMBATCH_DESK__PROXIES) or where people sign on "
            "(DERMBATCH_DESK__OIDC__ISSUER)"
        )


def give_back() -> None:
    """Return freed memory to the machine.

    Tables pass through it part by part. Of 1,000,000 results, Arrow's own allocator, and glibc's with thresholds
    that move with what is freed, would keep 80 MB for later.
    """
    pa.set_memory_pool(pa.system_memory_pool())
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # otherwise another libc, with its own ways
        libc.mallopt(*_TRIM)
        libc.mallopt(*_MAP)


def main() -> None:
    """Serve until SIGTERM."""
    try:
        settings = load()
        check(settings.desk, settings.tenants)
        load_tenants(settings)
    except UsageError as error:
        sys.exit(f"dermbatch: {error}")
    configure(settings.log_level)
    give_back()
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
