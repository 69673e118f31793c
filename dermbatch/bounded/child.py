"""A process that reads untrusted files, one after the other, each within limits."""

from __future__ import annotations

import errno
import pickle
import socket
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from dermbatch.bounded.limits import BoundedRead, Limits, begin
from dermbatch.bounded.messages import DONE, FAILED, PIXELS, receive, send


@dataclass(frozen=True)
class Errand:
    """What to do.

    Attributes:
        function: Takes the file's bytes first; found by its name, as pickle does.
        limits: The memory and time that it may take.
        arguments: Its further positional arguments.
        named: Its keyword arguments.
    """

    function: Callable[..., Any]
    limits: Limits
    arguments: tuple[Any, ...] = ()
    named: dict[str, Any] = field(default_factory=dict)


def serve(owner: socket.socket) -> None:
    """Answer the owner's errands until the owner is gone."""
    while (asked := receive(owner)) is not None:
        _, errand, beside = asked
        _answer(owner, errand, beside)
        del asked, errand, beside  # not held while it waits


def _answer(owner: socket.socket, errand: Errand, beside: list[memoryview]) -> None:
    reading = BoundedRead(errand.limits, beside[0].nbytes, lambda pixels: send(owner, PIXELS, pixels))
    begin(reading)
    failed: Exception | None = None
    try:
        send(owner, DONE, errand.function(bytes(beside[0]), *errand.arguments, **errand.named))
    except MemoryError:
        failed = reading.too_much()
    except Exception as error:  # whatever it is, the owner is told
        failed = reading.too_much() if getattr(error, "errno", None) == errno.ENOMEM else _sent(error)
    finally:
        begin(None)
        reading.end()
    if failed is not None:
        send(owner, FAILED, failed)


def _sent(error: Exception) -> Exception:
    """An error in a form that can be sent: with the lines it comes from, and nothing of the file."""
    lines = "".join(traceback.format_tb(error.__traceback__))
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - just made
    except Exception:  # it may be any error at all: only trying shows whether it can be sent
        error = RuntimeError(f"{type(error).__name__} while a file was read")
    error.__traceback__ = error.__context__ = error.__cause__ = None
    error.add_note(f"in the process that reads files:\n{lines}")
    return error
