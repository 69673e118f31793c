"""One-shot models as plain functions: prototypes of a support, and what resembles them in a picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from dermbatch.errors import StackError, UsageError
from dermbatch.images.fitting import fit
from dermbatch.models.repository import default_model_repository, newest_file
from dermbatch.stages import Stage
from lesionnets import checkpoint, weights
from lesionnets.evaluation.models.predictors import Image, LoadedModel, load_model
from lesionnets.graphs.one_shot import SUPPORT, QueryGraph, SupportGraph, contract
from lesionnets.nets.segment.one_shot import OneShot

Prototypes = npt.NDArray[np.float32]

SHIPPED = "segment_oneshot"
"""The model if none is named."""

COUNTS_AS = {
    "common": "nevus",
    "common nevus": "nevus",
    "atypical nevus": "nevus",
    "common_nevus": "nevus",
    "atypical": "nevus",
    "atypical_nevus": "nevus",
    "mel": "melanoma",
    "nv": "nevus",
}
"""What labels of other archives count as here: weights that never saw a nevus never saw an atypical one either."""


@dataclass(frozen=True)
class Shown:
    """A one-shot model.

    Attributes:
        query: The model that takes ``IMAGE`` and ``PROTOTYPES``.
        support: The model that takes ``IMAGE`` and ``MASK``.
        weights: What was loaded, as text for people.
        unseen: Diagnosis that it was never trained on; None if it has seen all of ISIC 2017.
    """

    query: LoadedModel
    support: LoadedModel
    weights: str
    unseen: str | None

    def prototypes(self, image: Image, mask: npt.NDArray[np.bool_]) -> Prototypes:
        """Prototypes of a support [H, W, 3] and its lesion [H, W]."""
        small = self.query.fitted(image, native=False)
        size = small.shape[0], small.shape[1]
        drawn = fit(np.where(mask, np.uint8(255), np.uint8(0)).astype(np.uint8), size) > 127
        return np.asarray(self.support(IMAGE=small, MASK=drawn.astype(np.uint8))["PROTOTYPES"], np.float32)

    def probability(self, image: Image, known: Prototypes) -> npt.NDArray[np.uint8]:
        """Probability of lesion x 255, [h, w], at the size that is sent."""
        small = self.query.fitted(image, native=False)
        return np.asarray(self.query(IMAGE=small, PROTOTYPES=known)["LESION"], np.uint8)


def load_shown(model: str | None, unseen: str | None) -> Shown:
    """Load a one-shot model that never saw a diagnosis.

    Args:
        model: ``segment_oneshot`` or None for what ships; otherwise a checkpoint, or ``model.onnx`` in a model
            repository.
        unseen: The diagnosis; None if it may have seen all.

    Raises:
        UsageError: If there are no such weights, or they have seen it.
    """
    known_as = COUNTS_AS.get(unseen, unseen) if unseen else None
    if model in (None, SHIPPED) and known_as is not None:
        model = str(weights.oneshot_without(known_as))
    if model in (None, SHIPPED):
        try:
            model = str(newest_file(default_model_repository(), SHIPPED))
        except StackError as error:
            raise UsageError(f"{error}; name a model") from error
    path = Path(str(model))
    found = _of_onnx(path) if path.suffix == ".onnx" else _of_checkpoint(path)
    if known_as is not None and found.unseen != known_as:
        saw = f"never saw {found.unseen} alone" if found.unseen else "was trained on all diagnoses"
        raise UsageError(f"{path} {saw}: train one by `lesionnets train segment_oneshot --unseen {known_as}`")
    return found


def _of_onnx(path: Path) -> Shown:
    query = load_model(path, Stage.SEGMENT, shown=True)
    beside = path.parent.parent.parent / SUPPORT / path.parent.name / path.name
    if "PROTOTYPES" not in query.shapes or not beside.is_file():
        raise UsageError(f"{path} is not a one-shot model with its {SUPPORT} next to it")
    support = load_model(beside, None)
    return Shown(query, support, str(path), query.parameters.get("unseen"))


def _of_checkpoint(path: Path) -> Shown:
    network = checkpoint.load(path, recipe="segment_oneshot").build()
    assert isinstance(network, OneShot)  # noqa: S101 - such a recipe makes no other
    graphs = SupportGraph(network).eval(), QueryGraph(network).eval()

    def run(graph: torch.nn.Module, name: str, *names: str) -> LoadedModel:
        def answer(**inputs: Image) -> dict[str, npt.NDArray[np.generic]]:
            with torch.inference_mode():
                tensors = [
                    torch.from_numpy(np.require(inputs[key], requirements=["C", "W"]))[None] for key in names
                ]
                return {name: graph(*tensors)[0].numpy()}

        return LoadedModel(name=str(path), parameters=contract(network).parameters, run=answer)

    support, query = run(graphs[0], "PROTOTYPES", "IMAGE", "MASK"), run(graphs[1], "LESION", "IMAGE", "PROTOTYPES")
    return Shown(query, support, str(path), network.unseen)
