"""Decoders' own warnings, silenced while untrusted files are read.

Pillow and pydicom warn about oddities in a file. Those that matter become a note or a refusal here; the rest would
only fill logs, and may quote a header's values.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

_lock = threading.Lock()
_inside = 0
_filters = ExitStack()


@contextmanager
def quiet() -> Iterator[None]:
    """Ignore `UserWarning`, `RuntimeWarning` and their subclasses in this block; safe in threads and when nested.

    `warnings.catch_warnings` alone is not: two threads that leave it out of order restore each other's filters.
    """
    global _inside  # noqa: PLW0603 - the filters that it guards are global too
    with _lock:
        if _inside == 0:
            _filters.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore", UserWarning)
            warnings.simplefilter("ignore", RuntimeWarning)
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                _filters.close()
