"""The servers behind an address: which exist now, looked up repeatedly, and which are being avoided."""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress

LOOK_AGAIN = 2.0
"""Seconds between two look-ups of a name, and so until an added or removed replica is noticed."""

_AWAY = 5.0  # seconds before a server that was not ready is asked again
_STATIC = ("ipv4:", "ipv6:")
_NAMED = ("dns:///", "dns:")

LookUp = Callable[[str, str], Iterable[str]]
"""Finds the IP addresses of a host, given its name and port."""


def look_up(host: str, port: str) -> list[str]:
    """IP addresses of a host, of one family if it has several; none if its name leads nowhere now."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        return []
    by_family = {family: sorted({str(it[4][0]) for it in found if it[0] == family}) for family, *_ in found}
    return by_family.get(socket.AF_INET) or by_family.get(socket.AF_INET6, [])


class Endpoints:
    """The addresses that a gRPC URL leads to, as numeric ``host:port``.

    A name is looked up here and not by gRPC, which looks only when a connection breaks: an added replica would get
    nothing for as long as all is well. Safe to share between threads.

    Args:
        url: ``host:port``, ``dns:///host:port``, ``ipv4:host:port,host:port`` or ``ipv6:...``; any other scheme is
            left to gRPC, and counts as one server.
        ready: Whether the server at such an address takes requests.
        look_up: Finds IP addresses of names.
    """

    def __init__(self, url: str, ready: Callable[[str], bool], look_up: LookUp = look_up) -> None:
        self.url = url
        self._ready, self._look_up = ready, look_up
        self._static = url.startswith(_STATIC)
        self._host, self._port = ("", "") if self._static else _name_of(url)
        self._addresses = tuple(url.partition(":")[2].split(",")) if self._static else ()
        self._away: dict[str, float] = {}  # address to the time at which it is asked again
        self._next_look = 0.0
        self._looking = threading.Lock()
        self._guard = threading.Lock()

    @property
    def authority(self) -> str | None:
        """What requests name as their host, where their target does not say it."""
        return f"{self._host}:{self._port}" if self._host and self.several else None

    @property
    def several(self) -> bool:
        """Whether more than one server is known."""
        return len(self._addresses) > 1

    @property
    def addresses(self) -> tuple[str, ...]:
        """All servers, those that are being left too; none where only gRPC knows them."""
        return self._addresses

    @property
    def local(self) -> bool:
        """Whether it is one server, and on this machine."""
        if self.url.startswith("unix:"):
            return True
        return len(self._addresses) == 1 and _is_own(self._addresses[0].rpartition(":")[0].strip("[]"))

    def target(self) -> str:
        """What a channel of gRPC is to be opened to now; another one as soon as servers come, go or are left."""
        now = time.monotonic()
        # One thread looks; the others go on with what is known, as a name server may take its time.
        if now >= self._next_look and self._looking.acquire(blocking=False):
            try:
                self._look()
            finally:
                self._next_look = time.monotonic() + LOOK_AGAIN
                self._looking.release()
        if not self.several:
            return self.url
        with self._guard:
            staying = [address for address in self._addresses if address not in self._away]
        return f"{_family(self._addresses[0])}:{','.join(staying or self._addresses)}"

    def leave(self, addresses: Iterable[str]) -> None:
        """Send these servers nothing for a while, and again once they are ready; all others get requests."""
        until = time.monotonic() + _AWAY
        with self._guard:
            self._away = dict.fromkeys(addresses, until)

    def _look(self) -> None:
        if self._host:
            found = tuple(_joined(ip, self._port) for ip in self._look_up(self._host, self._port))
            self._addresses = found or self._addresses
        for address, until in list(self._away.items()):
            if address not in self._addresses or (time.monotonic() >= until and self._ready(address)):
                with self._guard:
                    self._away.pop(address, None)


def _name_of(url: str) -> tuple[str, str]:
    """Host and port of an address that has a name or a number; empty where gRPC alone knows what it means."""
    for scheme in _NAMED:
        url = url.removeprefix(scheme)
    host, _, port = url.rpartition(":")
    if not port.isdigit() or "/" in host or (":" in host and not host.startswith("[")):
        return "", ""
    return host.strip("[]"), port


def _joined(ip: str, port: str) -> str:
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def _family(address: str) -> str:
    return "ipv6" if address.startswith("[") else "ipv4"


def _is_own(ip: str) -> bool:
    """Whether an IP address is one of this machine: only those can be bound."""
    with suppress(ValueError, OSError):
        family = socket.AF_INET6 if ipaddress.ip_address(ip).version == 6 else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as trying:
            trying.bind((ip, 0))
            return True
    return False
