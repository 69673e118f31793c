"""Free ports on the loopback address."""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack

from dermbatch.errors import StackError

_LOWEST = 10240
# Below Linux' range for outgoing connections (32768 and up): between the choice of a port and the start of its
# server, and while a dead part waits to be started again, no connection can occupy it.
_HIGHEST = 32767
_TRIES = 2000


def free_ports(count: int) -> list[int]:
    """Choose ports of 127.0.0.1 on which nobody listens; all stay bound until the last one is chosen.

    Args:
        count: How many.

    Returns:
        ``count`` different port numbers, 10240 to 32767.

    Raises:
        StackError: If there are not that many.
    """
    chosen: list[int] = []
    rng = random.SystemRandom()
    with ExitStack() as held:
        for _ in range(_TRIES):
            if len(chosen) == count:
                return chosen
            port = rng.randint(_LOWEST, _HIGHEST)
            listener = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                listener.close()
            else:
                chosen.append(port)
    if len(chosen) == count:
        return chosen
    raise StackError(f"no {count} free ports on 127.0.0.1 between {_LOWEST} and {_HIGHEST}")


def taken(port: int) -> bool:
    """Whether somebody listens on a port of 127.0.0.1."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # closed connections do not count
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False
