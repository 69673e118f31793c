"""Podman as a builder and a runner, without a daemon and without systemd."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
_CONF = Path(__file__).with_name("containers.conf")


class EngineFailed(SystemExit):
    """A command of podman failed; its text is the command and podman's answer."""


def environment() -> dict[str, str]:
    """This process's environment, in which podman takes our ``containers.conf``."""
    return {**os.environ, "CONTAINERS_CONF": str(_CONF)}


def podman(*arguments: str | Path, check: bool = True, env: Mapping[str, str] | None = None) -> str:
    """Run podman.

    Returns:
        Its standard output.

    Raises:
        EngineFailed: Where its exit status is not 0, unless ``check`` is false.
    """
    return run("podman", *arguments, check=check, env=env)


def run(*words: str | Path, check: bool = True, env: Mapping[str, str] | None = None, cwd: Path = ROOT) -> str:
    """Run a program that uses podman; as :func:`podman`."""
    argv = [str(word) for word in words]
    ended = subprocess.run(
        argv, check=False, capture_output=True, text=True, env={**environment(), **(env or {})}, cwd=cwd
    )
    if check and ended.returncode != 0:
        output = "\n".join((ended.stdout + ended.stderr).splitlines()[-40:])
        raise EngineFailed(f"{' '.join(argv)} ended with {ended.returncode}:\n{output}")
    return ended.stdout.strip()


def logs(name: str) -> str:
    """The last lines that a container has written, on both ends."""
    asked = ["podman", "logs", "--tail", "20", name]
    ended = subprocess.run(asked, check=False, capture_output=True, text=True, env=environment())
    return ended.stdout + ended.stderr


def inspect(kind: str, name: str) -> dict[str, Any]:
    """What podman knows of a container or an image.

    Args:
        kind: ``container`` or ``image``.
        name: Its name or id.
    """
    found: dict[str, Any] = json.loads(podman(kind, "inspect", name))[0]
    return found
