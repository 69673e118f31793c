"""What unit tests share, so that each costs little."""

from collections.abc import Iterator
from functools import partial

import pytest

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
