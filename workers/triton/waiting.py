"""``python -m workers.triton.waiting``: ends as soon as a Triton takes requests; pods start with it.

A server that is still loading its models, or is shutting down, answers too, but does not count.
"""

from __future__ import annotations

import sys
import time
from contextlib import closing

from dermbatch.errors import UsageError
from dermbatch.models.triton import Triton
from dermbatch.settings import load

_PAUSE = 1.0  # seconds between two looks


def main() -> None:
    """Wait until a Triton of the settings is ready."""
    try:
        settings = load()
    except UsageError as error:
        sys.exit(f"dermbatch: {error}")
    with closing(Triton(settings.triton)) as triton:
        while not triton.ready():
            time.sleep(_PAUSE)


if __name__ == "__main__":
    main()
