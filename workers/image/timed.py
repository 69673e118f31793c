"""How long the models of one image took, whatever runs them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from dermbatch.models.served import Array, ServedModel
from dermbatch.records.asked import ModelChoice
from dermbatch.stages import Stage
from workers.inference.protocol import Inference


class Timed:
    """The same engine, and the time until its answers were there.

    For a server, this is what a worker sees, including transport and the server's own queue.

    Args:
        engine: What runs the models.

    Attributes:
        seconds: How long it has run models so far.
    """

    def __init__(self, engine: Inference) -> None:
        self._engine = engine
        self.seconds = 0.0

    def model(self, stage: Stage | None, choice: ModelChoice) -> ServedModel:
        """The same as the engine's."""
        return self._engine.model(stage, choice)

    def infer(self, model: ServedModel, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """The same as the engine's."""
        with self._timing():
            return self._engine.infer(model, inputs, outputs)

    def infer_many(
        self, model: ServedModel, items: Sequence[Mapping[str, Array]], outputs: Sequence[str]
    ) -> list[dict[str, Array]]:
        """The same as the engine's; the time of requests that are in flight together counts once."""
        with self._timing():
            return self._engine.infer_many(model, items, outputs)

    def close(self) -> None:
        """Does nothing: the engine belongs to somebody else."""

    @contextmanager
    def _timing(self) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - start
