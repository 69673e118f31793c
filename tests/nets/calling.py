"""The command ``lesionnets``, called as users call it."""

from __future__ import annotations

import sys

import pytest

from lesionnets import cli


def call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: object
) -> tuple[int, str, str]:
    """Its exit code, and what it wrote to standard output and error."""
    monkeypatch.setattr(sys, "argv", ["lesionnets", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    output = capsys.readouterr()
    return int(ended.value.code or 0), output.out, output.err
