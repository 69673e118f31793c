"""The command line. Exit codes: 0 all well, 1 some images failed or a part broke, 2 usage."""

from __future__ import annotations

from orchestrator.cli.app import app, main
from orchestrator.cli.commands import audit, batches, canary, once, privacy, rules, stack, steering, watch

__all__ = ["app", "main"]

for module in (once, stack, batches, steering, canary, privacy, rules, watch, audit):
    module.register(app)
