"""The logs of the parts do not grow for ever: a large one is set aside, replacing the previous one."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

MOST = 16 * 1024 * 1024
"""Most bytes of a log; the one set aside may have as many again."""


def rotate(log: Path) -> bool:
    """Set a log aside as ``<log>.1`` if it is large. Its program goes on writing into the emptied file.

    It is copied rather than renamed, because programs have it open for appending. A line written in the
    milliseconds between copying and emptying is lost.

    Returns:
        Whether it was set aside.
    """
    with suppress(OSError):  # no log yet, or no space: it is tried again
        if log.stat().st_size > MOST:
            shutil.copyfile(log, log.with_name(f"{log.name}.1"))
            os.truncate(log, 0)
            return True
    return False
