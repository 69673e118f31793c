"""``python -m orchestrator.stack``: hosts a stack in the background for ``dermbatch up``."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from dermbatch.errors import DermbatchError
from dermbatch.models.repository import default_model_repository
from dermbatch.settings import Settings
from orchestrator.stack.host import serve
from orchestrator.stack.stack import Stack
from orchestrator.stack.state import make_home


def main() -> int:
    """Run a stack until SIGTERM; returns 1 if it could not be kept running."""
    parser = argparse.ArgumentParser(prog="python -m orchestrator.stack", description=__doc__)
    parser.add_argument("--home", type=Path, required=True, help="folder for data, logs and state")
    parser.add_argument("--workers", type=int, default=1, help="worker processes")
    parser.add_argument(
        "--live-slots", type=int, default=0, help="images at a time in a worker that takes only live ones"
    )
    parser.add_argument(
        "--model-repository", type=Path, help="Triton model repository; the default models otherwise"
    )
    parser.add_argument("--desk", action="store_true", help="also serve the desk")
    options = parser.parse_args()
    try:
        repository = options.model_repository or default_model_repository()
        stack = Stack(
            options.home,
            Settings(),
            workers=options.workers,
            live_slots=options.live_slots,
            model_repository=repository,
            desk=options.desk,
        )
        make_home(stack.home)
        os.chdir(stack.home)
        serve(stack)
    except DermbatchError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
