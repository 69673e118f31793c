"""A stage's model as a plain function of images: a checkpoint (.pt), an ONNX file, or one that a Triton serves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch

from dermbatch.errors import DermbatchError, InferenceUnavailable, ModelContractError, StackError, UsageError
from dermbatch.images.fitting import LONG_SIDE, fit, sent_size
from dermbatch.models.configuration import read_config
from dermbatch.models.contracts import CONTRACTS
from dermbatch.models.modelfile import TYPES
from dermbatch.models.repository import default_model_repository, newest_file
from dermbatch.models.served import Array, ServedModel, labels_of, parameters_of
from dermbatch.models.triton import Triton
from dermbatch.records.asked import ModelChoice
from dermbatch.settings import DEFAULT_MODELS, load
from dermbatch.stages import Stage
from lesionnets import checkpoint
from lesionnets.graphs.contract import graph_module

Image = npt.NDArray[np.uint8]
Given = npt.NDArray[np.uint8] | npt.NDArray[np.float32]
Run = Callable[..., dict[str, Array]]
"""Takes the stage's inputs by name and returns its outputs by name, both without a batch dimension."""

PORT = 8001
"""Port on which Triton listens for gRPC by default."""

_TIMEOUT = 60.0  # seconds of one request: an image of native size on a busy machine

_TO_BE_SHOWN = "{} needs a support: measure it with `lesionnets evaluate oneshot`"

_WRAPPERS = {Stage.SEGMENT: "SegmentGraph", Stage.CLASSIFY: "ClassifyGraph"}
"""Graphs that are written in PyTorch and can flip; the others exist in ONNX only. They are found by
these names, so several modules of ``lesionnets/graphs`` have one of the same name."""


@dataclass(frozen=True, kw_only=True)
class LoadedModel(ServedModel):
    """A model of a stage, ready to run; call it as :data:`Run` says.

    Its name is the one that the user gave; without a configuration it has no parameters.

    Attributes:
        run: The function itself.
    """

    run: Run

    def __call__(self, **inputs: Given) -> dict[str, Array]:
        """Run it on one image; tensors have no batch dimension."""
        return self.run(**inputs)

    def broken(self, how: str) -> UsageError:
        """An error that says what is wrong with the model that the user named."""
        return UsageError(f"{self.name} {how}")

    def fitted(self, image: Image, *, native: bool) -> Image:
        """An image or mask at the size at which it is sent to the model.

        Args:
            image: [H, W] or [H, W, 3].
            native: Send all pixels to a model that takes any size, instead of as many as a worker sends.
        """
        height, width = image.shape[:2]
        long_side = max(height, width) if native else int(self.number("long_side", LONG_SIDE))
        return fit(image, sent_size(self.image_size, height, width, long_side))


def default_model(stage: Stage) -> str:
    """Path of the default model of a stage, which comes with Dermbatch.

    Raises:
        UsageError: If it is missing.
    """
    try:
        return str(newest_file(default_model_repository(), DEFAULT_MODELS[stage].name))
    except StackError as error:
        raise UsageError(f"{error}; name a model") from error


def in_float32(path: Path) -> Path:
    """``model.onnx`` of the model that a variant in bytes was made of, of its version; other files as they are."""
    base = path.parents[1].with_name(path.parents[1].name.removesuffix("_int8"))
    return base / path.parent.name / path.name


def load_model(path: str | Path, stage: Stage | None, *, flips: bool = False, shown: bool = False) -> LoadedModel:
    """A model of a stage.

    Args:
        path: A checkpoint, an ONNX file, or ``triton://HOST:PORT/NAME[@VERSION]``.
        stage: The stage whose contract it must keep; None: that of an ONNX model which makes prototypes.
        flips: Take the mean over the picture and its mirror images; for checkpoints of segmentation and
            classification only, as a served graph does it itself or not at all.
        shown: Whether it may be a model that has to be shown a support.

    Raises:
        UsageError: If the file is missing, is neither a checkpoint nor ONNX, or is a model of another stage; if
            there is no such Triton or model; if it cannot flip.
        ModelContractError: If the configuration beside an ONNX file cannot be read, or names another model.
    """
    if stage is not None and str(path).startswith("triton:"):
        _refuse_flips(path, flips)
        return _connect(str(path), stage)
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"there is no model file {path}")
    if path.suffix == ".onnx":
        _refuse_flips(path, flips)
        model = _load_onnx(path, path, stage, _parameters_beside(path))
        if model.takes_support and stage is not None and not shown:
            raise UsageError(_TO_BE_SHOWN.format(path))
        return model
    if stage is None:
        raise UsageError(f"{path} is not an ONNX file")
    return _load_checkpoint(path, stage, flips=flips)


def told_classes(path: str | Path) -> tuple[str, ...]:
    """The classes of a classifier in a model repository, from its configuration alone; empty if it names none.

    So labels can be refused before a model is loaded, which takes seconds.
    """
    path = Path(path)
    return labels_of(_parameters_beside(path)) if path.suffix == ".onnx" else ()


def _refuse_flips(path: str | Path, flips: bool) -> None:
    if flips:
        raise UsageError(f"--flips is for checkpoints; {path} mirrors if `lesionnets export --flips` made it")


def _parameters_beside(path: Path) -> dict[str, str]:
    """The parameters of the ``config.pbtxt`` of an ONNX file, if it is in a model repository."""
    folder = path.parent.parent
    return parameters_of(read_config(folder)) if (folder / "config.pbtxt").is_file() else {}


def _load_onnx(
    content: Path | bytes, path: Path, stage: Stage | None, parameters: Mapping[str, str]
) -> LoadedModel:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(content, options)
    except Exception as error:  # onnxruntime's errors have no common base
        raise UsageError(f"{path} cannot be read as an ONNX model") from error
    names = tuple(output.name for output in session.get_outputs())
    tensors = [*session.get_inputs(), *session.get_outputs()]
    shapes = {
        tensor.name: tuple(side if isinstance(side, int) else -1 for side in tensor.shape[1:])
        for tensor in tensors
        if tensor.shape
    }

    def run(**inputs: Image) -> dict[str, Array]:
        try:
            outputs = session.run(None, {name: value[None] for name, value in inputs.items()})
        except Exception as error:  # as above
            raise UsageError(f"{path} cannot be run: {error}") from error
        return {name: value[0] for name, value in zip(names, outputs, strict=True)}

    model = LoadedModel(name=str(path), shapes=shapes, parameters=parameters, run=run)
    if stage is not None:
        model.require(stage, {tensor.name for tensor in session.get_inputs()}, set(names))
        contract = CONTRACTS[stage]
        model.keep_types(
            (*contract.inputs, *contract.outputs), {one.name: TYPES.get(one.type, one.type) for one in tensors}
        )
    return model


def _load_checkpoint(path: Path, stage: Stage, *, flips: bool) -> LoadedModel:
    trained = checkpoint.load(path)
    if trained.recipe.partition("_")[0] != stage:
        raise UsageError(f"{path} was made by recipe {trained.recipe!r}, which is not for the {stage} stage")
    network = trained.build()
    module = graph_module(network, stage, path)
    contract = module.contract(network)
    if any(tensor.name == "PROTOTYPES" for tensor in contract.inputs):
        raise UsageError(_TO_BE_SHOWN.format(path))
    if stage not in _WRAPPERS:
        _refuse_flips(path, flips)
        return _load_onnx(module.build(network).SerializeToString(), path, stage, contract.parameters)
    graph = getattr(module, _WRAPPERS[stage])(network, flips=flips).eval()
    names = [tensor.name for tensor in contract.outputs]

    def run(**inputs: Image) -> dict[str, Array]:
        with torch.inference_mode():
            found = graph(
                *(torch.from_numpy(np.require(value, requirements=["C", "W"]))[None] for value in inputs.values())
            )
        outputs = found if isinstance(found, tuple) else (found,)
        return {name: value[0].numpy() for name, value in zip(names, outputs, strict=True)}

    return LoadedModel(name=str(path), parameters=contract.parameters, run=run)


def _connect(address: str, stage: Stage) -> LoadedModel:
    """Connect to a model that a Triton serves; the newest version that is ready if the address names none."""
    host, name, wanted = _parts(address)
    triton = Triton(load().triton.model_copy(update={"url": host, "timeout": _TIMEOUT}))
    try:
        ready = triton.versions(name)
    except InferenceUnavailable as error:
        raise UsageError(
            f"no Triton answers gRPC at {host}; check that it is running, and that this is its gRPC port"
        ) from error
    except ModelContractError as error:
        raise UsageError(f"the Triton at {host} serves no model {name!r}") from error
    if wanted and wanted not in ready:
        raise UsageError(f"the Triton at {host} serves {name} in version {', '.join(ready)}, not {wanted}")
    try:
        model = triton.model(stage, ModelChoice(name=name, version=wanted or None))
    except DermbatchError as error:
        raise UsageError(f"{address}: {error}") from error
    outputs = [tensor.name for tensor in CONTRACTS[stage].outputs if tensor.name in model.shapes]

    def run(**inputs: Image) -> dict[str, Array]:
        try:
            return triton.infer(model, inputs, outputs)
        except DermbatchError as error:
            raise UsageError(f"{address} failed: {error}") from error

    return LoadedModel(**(vars(model) | {"name": address}), run=run)


def _parts(address: str) -> tuple[str, str, str]:
    """Host with port, name and version (empty if none is named) of an address."""
    parts = urlsplit(address)
    name, _, version = parts.path.removeprefix("/").partition("@")
    try:
        host, port = parts.hostname, parts.port or PORT
    except ValueError:
        host, port = None, PORT
    if not host or not name or "/" in name or (version and not version.isdecimal()) or address.endswith("@"):
        raise UsageError(
            f"{address!r} is not the address of a model: write triton://HOST:PORT/NAME or .../NAME@VERSION"
        )
    return (f"[{host}]" if ":" in host else host) + f":{port}", name, version
