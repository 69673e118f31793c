"""A stage's model as a plain function of images, from a checkpoint (.pt) or an ONNX file."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch

from dermbatch.errors import UsageError
from dermbatch.stages import Stage
from lesionnets import checkpoint

Image = npt.NDArray[np.uint8]
Run = Callable[..., dict[str, npt.NDArray[Any]]]
"""Takes the stage's inputs by name, without a batch dimension; returns its outputs by name, likewise."""

_WRAPPERS = {Stage.SEGMENT: "SegmentGraph", Stage.CLASSIFY: "ClassifyGraph"}
"""Graphs that are written in PyTorch; the others exist in ONNX only."""
_OUTPUTS = {
    Stage.PURIFY: ("PURIFIED",),
    Stage.SEGMENT: ("LESION",),
    Stage.ENHANCE: ("ENHANCED",),
    Stage.CLASSIFY: ("PROBABILITIES", "EMBEDDING", "SALIENCY"),
}


def load_model(path: Path, stage: Stage) -> Run:
    """A model of a stage, ready to run.

    Raises:
        UsageError: Where the file is missing, is neither checkpoint nor ONNX, or is another stage's model.
    """
    if not path.is_file():
        raise UsageError(f"there is no model file {path}")
    return _load_onnx(path, path, stage) if path.suffix == ".onnx" else _load_checkpoint(path, stage)


def _load_onnx(content: Path | bytes, path: Path, stage: Stage) -> Run:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(content, options)
    except Exception as error:  # onnxruntime's errors have no common base
        raise UsageError(f"{path} cannot be read as an ONNX model") from error
    names = tuple(output.name for output in session.get_outputs())
    if not set(_OUTPUTS[stage]) <= set(names):
        raise UsageError(f"{path} gives {', '.join(names)}; the {stage} stage needs {', '.join(_OUTPUTS[stage])}")

    def run(**inputs: Image) -> dict[str, npt.NDArray[Any]]:
        outputs = session.run(None, {name: value[None] for name, value in inputs.items()})
        return {name: value[0] for name, value in zip(names, outputs, strict=True)}

    return run


def _load_checkpoint(path: Path, stage: Stage) -> Run:
    trained = checkpoint.load(path)
    if trained.recipe.partition("_")[0] != stage:
        raise UsageError(f"{path} was made by recipe {trained.recipe!r}, which is not for the {stage} stage")
    network = trained.build()
    module = import_module(f"lesionnets.graphs.{getattr(network, 'graph', stage)}")
    if stage not in _WRAPPERS:
        return _load_onnx(module.build(network).SerializeToString(), path, stage)
    graph = getattr(module, _WRAPPERS[stage])(network).eval()

    def run(**inputs: Image) -> dict[str, npt.NDArray[Any]]:
        with torch.inference_mode():
            found = graph(*(torch.from_numpy(np.ascontiguousarray(value))[None] for value in inputs.values()))
        outputs = found if isinstance(found, tuple) else (found,)
        return {name: value[0].numpy() for name, value in zip(_OUTPUTS[stage], outputs, strict=True)}

    return run
