"""Find modules by their own names, whatever folder they are in: checkpoints and commands name no folders."""

from __future__ import annotations

import pkgutil
from types import ModuleType


def modules_below(package: ModuleType) -> dict[str, str]:
    """Full names of a package's modules by their own: ``unet`` is ``lesionnets.nets.segment.unet``."""
    found = pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    return {module.name.rpartition(".")[2]: module.name for module in found if not module.ispkg}
