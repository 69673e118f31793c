"""What unit tests share, so that each costs little."""

import os
from collections.abc import Iterator
from functools import partial

import pytest
from processed import Place

from dermbatch.bounded.nursery import Nursery
from dermbatch.bounded.reader import Reader


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    """Where processes that read DICOMDIRs come from: to start one costs 0.2 s of processor."""
    nursery = Nursery(("dermbatch.images.dicomhead",))
    yield nursery
    nursery.close()


@pytest.fixture
def shared_nursery(nursery: Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have walks through inputs take their reading processes from there, each walk a process of its own."""
    monkeypatch.setattr("orchestrator.planning.intake.intake.Reader", partial(Reader, nursery=nursery))


@pytest.fixture
def place() -> Place:
    """An image in a store of its own, and all that processing it takes."""
    return Place()


@pytest.fixture
def closed_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders called "closed" cannot be read: root may read every folder, so the system's answer is played."""
    real = os.scandir

    def scandir(path: str) -> object:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
