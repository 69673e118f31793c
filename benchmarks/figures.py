"""What benchmarks that leave out sources share: how figures are printed and kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from lesionnets.evaluation.figures.intervals import Figure


def tell(figures: Mapping[str, Figure], kept: Path | None = None, *, prefix: str = "") -> None:
    """Print figures, a line each, and keep them as JSON if a file is named."""
    for name, figure in figures.items():
        print(f"{prefix}{name}={str(figure).replace(' ', '')}", flush=True)
    if kept:
        kept.write_text(json.dumps({name: vars(one) for name, one in figures.items()}, indent=2))
