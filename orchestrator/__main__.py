"""``python -m orchestrator``: the orchestrator's service, configured by ``DERMBATCH_*`` variables."""

from __future__ import annotations

from dermbatch.log import configure
from dermbatch.settings import Settings
from orchestrator.service import Service


def main() -> None:
    """Serve until SIGTERM."""
    settings = Settings()
    configure(settings.log_level)
    Service(settings).run()


if __name__ == "__main__":
    main()
