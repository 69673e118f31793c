"""Debian packages that some tests need: without them a test is skipped, and in CI it fails."""

import os
import shutil
from typing import NoReturn

import pytest


def missing(name: str, package: str) -> NoReturn:
    """End a test for which something is not installed."""
    if os.environ.get("CI"):
        pytest.fail(f"{name} is missing: make system-packages installs it")
    pytest.skip(f"needs {name}: make system-packages installs Debian's {package}")


def program(name: str, package: str) -> str:
    """Path of a program."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    return found if found is not None else missing(name, package)
