"""That an image lacks nothing that its programs need, though much of its packages was left out."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.containers.engine import podman, run

PACKAGES = {"worker": ("dermbatch", "workers"), "orchestrator": ("dermbatch", "orchestrator", "desk")}
"""Which packages of ours are in an image."""

_INSIDE = Path(__file__).with_name("inside.py")


def lacking(image: str, packages: tuple[str, ...], pictures: Path) -> tuple[list[str], str]:
    """Import all modules and decode all files in a container as compose.yaml runs them, and beside it.

    Args:
        image: Its name.
        packages: Of ours, which are in it.
        pictures: Folder of files that everybody may read.

    Returns:
        A sentence about each module or file of which another thing comes, and one about what was tried.
    """
    mounts = (f"--volume={_INSIDE}:/inside.py:ro", f"--volume={pictures}:/pictures:ro")
    bare = ("--rm", "--network=none", "--read-only", "--cap-drop=ALL", *mounts)
    there = json.loads(podman("run", *bare, image, "python", "/inside.py", "/pictures", *packages))
    here = json.loads(run(sys.executable, _INSIDE, pictures, *packages))
    tried = f"{there['modules']} modules imported, {len(there['files'])} files decoded"
    return compared(there, here), tried


def compared(there: dict[str, Any], here: dict[str, Any]) -> list[str]:
    """Where an image differs from what is beside it, a sentence each (``inside.py`` has the keys)."""
    wrong = [f"{module} cannot be imported: {why}" for module, why in there["broken"].items()]
    if there["modules"] != here["modules"]:
        wrong.append(f"there are {there['modules']} modules, not {here['modules']}")
    for name, digest in here["files"].items():
        if there["files"].get(name) != digest:
            wrong.append(f"{name} comes out as {there['files'].get(name)}, not as {digest}")
    return wrong
