"""A stage's model as a plain function of images: a checkpoint (.pt), an ONNX file, or what a Triton serves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from dermbatch.errors import StackError, UsageError
from dermbatch.images.fitting import LONG_SIDE, fit, sent_size
from dermbatch.models.contracts import CONTRACTS
from dermbatch.models.repository import default_model_repository, newest_file
from dermbatch.settings import DEFAULT_MODELS
from dermbatch.stages import Stage
from lesionnets import checkpoint
from lesionnets.graphs.contract import graph_module

Image = npt.NDArray[np.uint8]
Run = Callable[..., dict[str, npt.NDArray[Any]]]
"""Takes the stage's inputs by name, without a batch dimension; returns its outputs by name, likewise."""

_WRAPPERS = {Stage.SEGMENT: "SegmentGraph", Stage.CLASSIFY: "ClassifyGraph"}
"""Graphs that are written in PyTorch, which know flips; the others exist in ONNX only."""


@dataclass(frozen=True)
class Model:
    """A model of a stage, ready to run: call it as :data:`Run` says.

    Attributes:
        name: As the user called it.
        run: The function itself.
        parameters: What its configuration tells the worker, see :mod:`dermbatch.models.contracts`; empty where
            there is no configuration.
        image_size: Height and width that it takes; -1 where any will do.
    """

    name: str
    run: Run
    parameters: Mapping[str, str] = field(default_factory=dict)
    image_size: tuple[int, int] = (-1, -1)

    def __call__(self, **inputs: Image) -> dict[str, npt.NDArray[Any]]:
        """Run it on one image; tensors without the batch dimension."""
        return self.run(**inputs)

    @property
    def labels(self) -> tuple[str, ...]:
        """Classes in the order of ``PROBABILITIES``; empty where its configuration names none."""
        return tuple(filter(None, (label.strip() for label in self.parameters.get("labels", "").split(","))))

    def number(self, name: str, default: float) -> float:
        """A parameter as a number.

        Raises:
            UsageError: Where it is there and no number.
        """
        text = self.parameters.get(name, default)
        try:
            return float(text)
        except ValueError as error:
            raise UsageError(f"{self.name} has {text!r} as parameter {name!r}, which is no number") from error

    def fitted(self, image: Image, *, native: bool) -> Image:
        """An image or mask at the size at which it goes to the model.

        Args:
            image: [H, W] or [H, W, 3].
            native: Send all pixels to a model that takes any size; else as many as a worker sends.
        """
        height, width = image.shape[:2]
        long_side = max(height, width) if native else int(self.number("long_side", LONG_SIDE))
        return fit(image, sent_size(self.image_size, height, width, long_side))


def default_model(stage: Stage) -> str:
    """Path of the model that serves a stage where no other is named: that which travels with Dermbatch.

    Raises:
        UsageError: Where it is not there.
    """
    try:
        return str(newest_file(default_model_repository(), DEFAULT_MODELS[stage].name))
    except StackError as error:
        raise UsageError(f"{error}; name a model") from error


def load_model(path: str | Path, stage: Stage, *, flips: bool = False) -> Model:
    """A model of a stage.

    Args:
        path: A checkpoint, an ONNX file, or ``triton://HOST:PORT/NAME[@VERSION]``.
        stage: Whose contract it must keep.
        flips: Take the mean over the picture and its mirror images; of a checkpoint of segmentation or
            classification. In a graph that is served they are inside or not.

    Raises:
        UsageError: Where the file is missing, is neither checkpoint nor ONNX, or is another stage's model; where
            there is no such Triton or model; where flips cannot be had.
    """
    if str(path).startswith("triton:"):
        from lesionnets.evaluation.models import served  # noqa: PLC0415 - gRPC takes a while, and most do without

        _refuse_flips(path, flips)
        return served.connect(str(path), stage)
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"there is no model file {path}")
    if path.suffix == ".onnx":
        _refuse_flips(path, flips)
        return _load_onnx(path, path, stage, _parameters_beside(path))
    return _load_checkpoint(path, stage, flips=flips)


def _refuse_flips(path: str | Path, flips: bool) -> None:
    if flips:
        raise UsageError(f"--flips is for checkpoints; {path} mirrors if `lesionnets export --flips` made it")


def _parameters_beside(path: Path) -> dict[str, str]:
    """The parameters of the ``config.pbtxt`` of the model repository in which an ONNX file lies, if it does."""
    file = path.parent.parent / "config.pbtxt"
    if not file.is_file():
        return {}
    try:
        config = text_format.Parse(file.read_text(), model_config_pb2.ModelConfig())
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} is no model configuration of Triton") from error
    return {name: value.string_value for name, value in config.parameters.items()}


def _load_onnx(content: Path | bytes, path: Path, stage: Stage, parameters: Mapping[str, str]) -> Model:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(content, options)
    except Exception as error:  # onnxruntime's errors have no common base
        raise UsageError(f"{path} cannot be read as an ONNX model") from error
    names = tuple(output.name for output in session.get_outputs())
    shapes = {tensor.name: tensor.shape for tensor in session.get_inputs()}
    check_tensors(path, stage, set(shapes), set(names))

    def run(**inputs: Image) -> dict[str, npt.NDArray[Any]]:
        outputs = session.run(None, {name: value[None] for name, value in inputs.items()})
        return {name: value[0] for name, value in zip(names, outputs, strict=True)}

    height, width = (side if isinstance(side, int) else -1 for side in shapes["IMAGE"][1:3])
    return Model(str(path), run, parameters, (height, width))


def check_tensors(name: str | Path, stage: Stage, inputs: set[str], outputs: set[str]) -> None:
    """Refuse a model whose tensors are not its stage's.

    Raises:
        UsageError: Where one is missing, or one more is wanted.
    """
    contract = CONTRACTS[stage]
    taken = {tensor.name for tensor in contract.inputs}
    given = {tensor.name for tensor in contract.outputs if not tensor.optional}
    if inputs != taken or not given <= outputs:
        raise UsageError(
            f"{name} takes {_list(inputs)} and gives {_list(outputs)}; the {stage} stage has {_list(taken)} and "
            f"{_list(given)}"
        )


def _list(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "nothing"


def _load_checkpoint(path: Path, stage: Stage, *, flips: bool) -> Model:
    trained = checkpoint.load(path)
    if trained.recipe.partition("_")[0] != stage:
        raise UsageError(f"{path} was made by recipe {trained.recipe!r}, which is not for the {stage} stage")
    network = trained.build()
    module = graph_module(network, stage, path)
    contract = module.contract(network)
    parameters = contract.parameters | ({"labels": ",".join(contract.labels)} if contract.labels else {})
    if stage not in _WRAPPERS:
        _refuse_flips(path, flips)
        return _load_onnx(module.build(network).SerializeToString(), path, stage, parameters)
    graph = getattr(module, _WRAPPERS[stage])(network, flips=flips).eval()
    names = [tensor.name for tensor in contract.outputs]

    def run(**inputs: Image) -> dict[str, npt.NDArray[Any]]:
        with torch.inference_mode():
            found = graph(
                *(torch.from_numpy(np.require(value, requirements=["C", "W"]))[None] for value in inputs.values())
            )
        outputs = found if isinstance(found, tuple) else (found,)
        return {name: value[0].numpy() for name, value in zip(names, outputs, strict=True)}

    return Model(str(path), run, parameters)
