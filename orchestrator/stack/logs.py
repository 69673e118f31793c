"""The logs of the parts do not grow for ever: a large one is set aside, in place of the one before."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

MOST = 16 * 1024 * 1024
"""Bytes of a log; as many again may be in the one that was set aside."""


def rotate(log: Path) -> bool:
    """Set a log aside as ``<log>.1`` where it is large. Its program goes on writing into the emptied file.

    It is copied, not renamed, for programs have it open; they append. A line that is written within the
    milliseconds between copying and emptying is lost.

    Returns:
        Whether it was.
    """
    with suppress(OSError):  # none yet, or no space: it is tried again
        if log.stat().st_size > MOST:
            shutil.copyfile(log, log.with_name(f"{log.name}.1"))
            os.truncate(log, 0)
            return True
    return False
