"""``python -m orchestrator``: the orchestrator's service, configured by ``DERMBATCH_*`` variables."""

from __future__ import annotations

import sys

from dermbatch.errors import UsageError
from dermbatch.log import configure
from dermbatch.settings import load
from orchestrator.dispatch.service import Service


def main() -> None:
    """Serve until SIGTERM."""
    try:
        settings = load()
    except UsageError as error:
        sys.exit(f"dermbatch: {error}")
    configure(settings.log_level)
    Service(settings).run()


if __name__ == "__main__":
    main()
