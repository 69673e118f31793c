"""``lesionnets export``: a version of a model in a Triton model repository.

Writes ``<repository>/<model>/<version>/model.onnx``, ``config.pbtxt`` beside the versions, ``labels.txt`` for a
classifier, and ``MODEL_CARD.md``. The model is called as its recipe; what comes before the first underscore of
that name is its stage. The configuration serves Triton's own ONNX Runtime backend and the embedded one alike;
what only the worker reads (stage, threshold, labels, tile, file digests) stands in ``parameters``, of which a
backend passes over those that it does not know.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from string import Template
from typing import get_type_hints

import onnx

from dermbatch.errors import UsageError
from dermbatch.stages import Stage
from lesionnets import checkpoint
from lesionnets.evaluation.intervals import Figure
from lesionnets.graphs.assembly import halve_weights
from lesionnets.graphs.contract import Contract, Tensor
from lesionnets.model_card import write_card

MOST_BYTES = 10_000_000
"""A model file may have no more, as it travels with the package."""

HALVE_ABOVE = 4_000_000
"""Larger models store their weights as float16; they are computed with as float32."""

_CONFIG = """\
# Written by `lesionnets export`.
name: "$name"
backend: "onnxruntime"
max_batch_size: 4
input [
$inputs
]
output [
$outputs
]
version_policy { all { } }
dynamic_batching { max_queue_delay_microseconds: 500 }
instance_group [ { kind: KIND_AUTO count: 1 } ]
model_warmup [
  {
    name: "zero_image"
    batch_size: 1
$warmup
  }
]
# For ONNX Runtime.
parameters { key: "intra_op_thread_count" value: { string_value: "1" } }
# For the worker: what the stage needs to know of the model, and the digests of its files.
$parameters
"""


def export(
    checkpoint_path: Path,
    repository: Path,
    *,
    version: str | None = None,
    figures: Mapping[str, Figure] | None = None,
    flips: bool = False,
) -> Path:
    """Write a trained network as a version of a model.

    Args:
        checkpoint_path: What `lesionnets train` wrote.
        repository: A Triton model repository; made where it is missing.
        version: A whole number above 0; the next free one by default. An existing version is overwritten.
        figures: Measured ones with their intervals, for the card; the checkpoint's own by default.
        flips: Serve the mean over the picture and its three mirror images; of segmentation and classification.

    Returns:
        The model file.

    Raises:
        UsageError: Where the checkpoint or the version is not usable.
    """
    trained = checkpoint.load(checkpoint_path)
    stage = trained.recipe.partition("_")[0]
    if stage not in set(Stage):
        raise UsageError(f"recipe {trained.recipe!r} makes no model of a stage; there are {', '.join(Stage)}")
    graphs = importlib.import_module(f"lesionnets.graphs.{stage}")
    network = trained.build()
    wanted = get_type_hints(graphs.build)["network"]
    if not isinstance(network, wanted):
        raise UsageError(
            f"{checkpoint_path} holds a {type(network).__name__}; the {stage} graph takes a {wanted.__name__}"
        )
    if flips and "flips" not in signature(graphs.build).parameters:
        raise UsageError(f"--flips is for segmentation and classification, not for the {stage} stage")
    graph = graphs.build(network, flips=True) if flips else graphs.build(network)
    contract = graphs.contract(network)
    folder = repository / trained.recipe
    version = version or str(max(map(int, versions(folder)), default=0) + 1)
    if not version.isdecimal() or int(version) < 1:
        raise UsageError(f"version {version!r} is not a whole number above 0, as Triton numbers versions")
    model_file = write_model(folder, str(int(version)), graph, Stage(stage), contract)
    size = model_file.stat().st_size
    write_card(folder / "MODEL_CARD.md", trained, version=str(int(version)), size=size, figures=figures)
    return model_file


def write_model(folder: Path, version: str, graph: onnx.ModelProto, stage: Stage, contract: Contract) -> Path:
    """Write a graph as a version of the model ``folder.name``, and the configuration of all its versions.

    Raises:
        UsageError: Where the file is larger than ``MOST_BYTES``.
    """
    content = graph.SerializeToString(deterministic=True)
    if len(content) > HALVE_ABOVE:
        content = halve_weights(graph).SerializeToString(deterministic=True)
    if len(content) > MOST_BYTES:
        raise UsageError(
            f"{folder.name} takes {len(content)} bytes, more than {MOST_BYTES}; take a narrower network"
        )
    model_file = folder / version / "model.onnx"
    model_file.parent.mkdir(parents=True, exist_ok=True)
    model_file.write_bytes(content)
    if contract.labels:
        (folder / "labels.txt").write_text("".join(f"{label}\n" for label in contract.labels))
    (folder / "config.pbtxt").write_text(_config(folder, stage, contract))
    return model_file


def versions(folder: Path) -> list[str]:
    """The versions of a model that lie in its folder, oldest first."""
    names = (path.parent.name for path in folder.glob("*/model.onnx"))
    return sorted((name for name in names if name.isdecimal()), key=int)


def file_digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal: what provenance calls the model by."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _config(folder: Path, stage: Stage, contract: Contract) -> str:
    parameters = {"stage": str(stage)} | contract.parameters
    if contract.labels:
        parameters["labels"] = ",".join(contract.labels)
    for version in versions(folder):
        parameters[f"sha256.{version}"] = file_digest(folder / version / "model.onnx")
    return Template(_CONFIG).substitute(
        name=folder.name,
        inputs=",\n".join(f"  {{ {_tensor(tensor)} }}" for tensor in contract.inputs),
        outputs=",\n".join(
            f"  {{ {_tensor(tensor)}{_label_file(tensor, contract)} }}" for tensor in contract.outputs
        ),
        warmup="\n".join(_zeros(tensor, contract.warmup) for tensor in contract.inputs),
        parameters="\n".join(
            f'parameters {{ key: "{key}" value: {{ string_value: "{value}" }} }}'
            for key, value in parameters.items()
        ),
    )


def _tensor(tensor: Tensor) -> str:
    return f'name: "{tensor.name}" data_type: {tensor.data_type} dims: [ {_numbers(tensor.dims)} ]'


def _label_file(tensor: Tensor, contract: Contract) -> str:
    return ' label_filename: "labels.txt"' if contract.labels and tensor.dims == (len(contract.labels),) else ""


def _zeros(tensor: Tensor, size: tuple[int, int]) -> str:
    dims = _numbers((*size, *tensor.dims[2:]))
    value = f"data_type: {tensor.data_type} dims: [ {dims} ] zero_data: true"
    return f'    inputs {{ key: "{tensor.name}" value: {{ {value} }} }}'


def _numbers(values: tuple[int, ...]) -> str:
    return ", ".join(map(str, values))
