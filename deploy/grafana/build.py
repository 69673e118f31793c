"""Writes the dashboards as Grafana reads them: ``python -m deploy.grafana.build``.

The files are kept, so a deployment needs neither this code nor its library; a test tells where they are stale.
"""

from __future__ import annotations

import json
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from deploy.grafana.batches import batches
from deploy.grafana.models import models
from deploy.grafana.operations import operations

FOLDER = Path(__file__).parent / "dashboards"


def dashboards() -> dict[str, str]:
    """Name of a file to its JSON."""
    built = {"operations": operations(), "batches": batches(), "models": models()}
    return {
        f"{name}.json": json.dumps(board.build(), cls=JSONEncoder, indent=1, sort_keys=True) + "\n"
        for name, board in built.items()
    }


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for file, text in dashboards().items():
        (FOLDER / file).write_text(text, encoding="utf-8")
