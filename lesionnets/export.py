"""``lesionnets export``: a version of a model in a Triton model repository.

Writes ``<repository>/<model>/<version>/model.onnx``, ``config.pbtxt`` beside the versions, ``labels.txt`` for a
classifier, and ``MODEL_CARD.md``. The model has its recipe's name, and the part before the first underscore is its
stage. MB-DCNN becomes an ensemble (:mod:`lesionnets.ensemble`) and its steps. The configuration works for Triton's
own ONNX Runtime backend and for the embedded one. What only the worker reads (stage, threshold, labels, tile, file
digests) is in ``parameters``; a backend ignores those that it does not know.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from inspect import signature
from pathlib import Path
from string import Template

import onnx

from dermbatch.errors import UsageError
from dermbatch.models.configuration import read_config
from dermbatch.models.contracts import DATA_TYPES, DOUBLER, Contract, Tensor
from dermbatch.models.repository import file_digest, served_models
from dermbatch.models.risk import RISK, SETS
from dermbatch.models.served import labels_of, parameters_of
from dermbatch.stages import Stage
from lesionnets import checkpoint
from lesionnets.checkpoint import Checkpoint
from lesionnets.ensemble import STEPS, EnsembleStep, write_ensemble
from lesionnets.evaluation.figures.intervals import Figure
from lesionnets.graphs import mb_dcnn, one_shot, segment
from lesionnets.graphs.assembly import halve_weights
from lesionnets.graphs.contract import graph_module, parameter_lines, tensor_text
from lesionnets.model_card import write_card
from lesionnets.nets.mutual.mutual import MutualSN
from lesionnets.nets.segment.one_shot import OneShot

MOST_BYTES = 10_000_000
"""Largest size of a model file in bytes, because it travels with the package."""

MOST_ROWS = 4
"""Largest batch of one request."""

HALVE_ABOVE = 4_000_000
"""Models larger than this, in bytes, store their weights as float16 and compute with them as float32."""

WARMUP = 480, 640
"""Height and width of the zero image that a model is warmed up with, unless it takes tiles."""

_CONFIG = """\
# Written by `lesionnets export`.
name: "$name"
backend: "onnxruntime"
max_batch_size: $batch
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
    name: str | None = None,
    figures: Mapping[str, Figure] | None = None,
    flips: bool = False,
    visual_backprop: bool = False,
    doubler: str | None = None,
) -> Path:
    """Write a trained network as a version of a model.

    Args:
        checkpoint_path: What `lesionnets train` wrote: a checkpoint, or a run's folder with its ``best.pt``.
        repository: A Triton model repository; created if missing.
        version: A whole number above 0; the next free one by default. An existing version is overwritten.
        name: Name of the model, by default the recipe's. A second version of an ensemble needs another name.
        figures: Measured figures with their intervals, for the card; by default those of the checkpoint.
        flips: Serve the mean over the picture and its three mirror images; for segmentation and classification
            only.
        visual_backprop: Also serve ``VISUALBACKPROP``; for classifiers only.
        doubler: Name of the model in the repository, of the same version, that enlarges less for less work; for
            enhance only.

    Returns:
        The model file, or ``steps.txt`` of an ensemble.

    Raises:
        UsageError: If the checkpoint, the version or the name cannot be used.
    """
    if checkpoint_path.is_dir():
        checkpoint_path /= "best.pt"
    trained = checkpoint.load(checkpoint_path)
    stage = trained.recipe.partition("_")[0]
    if stage not in set(Stage):
        raise UsageError(f"recipe {trained.recipe!r} makes no model of a stage; there are {', '.join(Stage)}")
    network = trained.build()
    trained = replace(trained, state=network.state_dict())  # with what a checkpoint may leave out
    folder = repository / _plain(name or trained.recipe)
    if isinstance(network, MutualSN):
        if visual_backprop:
            raise UsageError("--visual-backprop is for classifiers; leave it out")
        if flips:
            raise UsageError("--flips is for models of one graph, not for an ensemble")
        return _export_mb_dcnn(trained, network, folder, version, figures)
    graphs = graph_module(network, stage, checkpoint_path)
    if flips and "flips" not in signature(graphs.build).parameters:
        raise UsageError(f"--flips is for segmentation and classification, not for the {stage} stage")
    if visual_backprop and "visual_backprop" not in signature(graphs.build).parameters:
        raise UsageError(f"--visual-backprop is for classifiers of one network, not for {trained.recipe}")
    version = _number(version, folder)
    seen = {"visual_backprop": True} if visual_backprop else {}
    graph = graphs.build(network, **({"flips": True} if flips else {}), **seen)
    contract = graphs.contract(network, **seen)
    if doubler is not None:
        contract = _beside(contract, stage, repository, doubler, version)
    model_file = write_model(folder, version, graph, Stage(stage), contract)
    size = model_file.stat().st_size
    write_card(folder / "MODEL_CARD.md", trained, version=version, size=size, figures=figures)
    if isinstance(network, OneShot):
        _export_support(trained, network, folder.parent, version)
    return model_file


def _beside(contract: Contract, stage: str, repository: Path, doubler: str, version: str) -> Contract:
    """The contract of an enhance model that has a doubler beside it."""
    if stage != Stage.ENHANCE:
        raise UsageError(f"--doubler is for the enhance stage, not for {stage}")
    if version not in versions(repository / doubler):
        raise UsageError(f"{repository} has no version {version} of {doubler}; export that first")
    return replace(contract, parameters={**contract.parameters, DOUBLER: doubler})


def _export_support(trained: Checkpoint, network: OneShot, repository: Path, version: str) -> None:
    """Write the model that makes the prototypes of a support, with the same version."""
    folder = repository / one_shot.SUPPORT
    graph, contract = one_shot.build_support(network), one_shot.support_contract(network)
    size = write_model(folder, version, graph, None, contract).stat().st_size
    card = replace(trained, recipe=one_shot.SUPPORT, figures={})
    write_card(folder / "MODEL_CARD.md", card, version=version, size=size)


def _plain(name: str) -> str:
    if not name.replace("_", "").replace("-", "").isalnum():
        raise UsageError(f"{name!r} cannot be a model's name: use letters, digits, _ and -")
    return name


def _number(version: str | None, *folders: Path) -> str:
    """A version as Triton writes it; by default the next one that is free in all of the folders."""
    taken = [int(number) for folder in folders for number in versions(folder)]
    version = version or str(max(taken, default=0) + 1)
    if not version.isdecimal() or int(version) < 1:
        raise UsageError(f"version {version!r} is not a whole number above 0, as Triton numbers versions")
    return str(int(version))


def _export_mb_dcnn(
    trained: Checkpoint,
    network: MutualSN,
    folder: Path,
    version: str | None,
    figures: Mapping[str, Figure] | None,
) -> Path:
    """Write MB-DCNN's three steps, the ensemble, and mask-CN as a classifier, all with one version."""
    guide, repository = _part(trained, "mask", "guide"), folder.parent
    models = {
        "segment_coarse_sn": (_part(trained, "coarse", "coarse"), Stage.SEGMENT),
        "mb_dcnn_mask_cn": (guide, None),
        "mb_dcnn_enhanced_sn": (_part(trained, "", "enhanced"), None),
        "classify_mask_cn": (guide, Stage.CLASSIFY),
    }
    version = _number(version, folder, *(repository / name for name in models))
    graphs = {
        "segment_coarse_sn": (segment.build(network.coarse), segment.contract(network.coarse)),
        "mb_dcnn_mask_cn": (mb_dcnn.build_localise(network), mb_dcnn.localise_contract(network)),
        "mb_dcnn_enhanced_sn": (mb_dcnn.build_enhance(network), mb_dcnn.enhance_contract(network)),
        "classify_mask_cn": (mb_dcnn.build(network.guide), mb_dcnn.contract(network.guide)),
    }
    files = {}
    for name, (part, stage) in models.items():
        files[name] = write_model(repository / name, version, graphs[name][0], stage, graphs[name][1])
        card, size = repository / name / "MODEL_CARD.md", files[name].stat().st_size
        write_card(card, replace(part, recipe=name), version=version, size=size)
    steps = [
        EnsembleStep(name, version, file_digest(files[name]), {"IMAGE": "IMAGE"} | takes, gives)
        for name, takes, gives in (
            ("segment_coarse_sn", {}, {"LESION": "coarse"}),
            ("mb_dcnn_mask_cn", {"COARSE": "coarse"}, {"WHERE": "where"}),
            ("mb_dcnn_enhanced_sn", {"WHERE": "where"}, {"LESION": "LESION"}),
        )
    ]
    contract = mb_dcnn.contract(network)
    steps_file = write_ensemble(folder, version, steps, stage=Stage.SEGMENT, contract=contract, batch=MOST_ROWS)
    size = sum(files[step.model].stat().st_size for step in steps)
    write_card(folder / "MODEL_CARD.md", trained, version=version, size=size, figures=figures)
    return steps_file


def _part(trained: Checkpoint, figures: str, part: str) -> Checkpoint:
    """A part of MB-DCNN's checkpoint as a checkpoint of its own, for the card."""
    state = {name.partition(".")[2]: value for name, value in trained.state.items() if name.startswith(f"{part}.")}
    names = {name.removeprefix(f"{figures}_"): name for name in trained.figures if name.startswith(f"{figures}_")}
    own = {short: trained.figures[name] for short, name in names.items()} if figures else trained.figures
    hyper = {"backbone": trained.hyper["backbone"], "part": part}
    return replace(trained, hyper=hyper, state=state, figures=own)


def write_model(
    folder: Path, version: str, graph: onnx.ModelProto, stage: Stage | None, contract: Contract
) -> Path:
    """Write a graph as a version of the model ``folder.name``, and the configuration of all its versions.

    Without a stage, the model is a step of an ensemble.

    Raises:
        UsageError: If the file is larger than ``MOST_BYTES``.
    """
    content = graph.SerializeToString(deterministic=True)
    if len(content) > HALVE_ABOVE:
        content = halve_weights(graph).SerializeToString(deterministic=True)
    if len(content) > MOST_BYTES:
        raise UsageError(
            f"{folder.name} takes {len(content)} bytes, more than {MOST_BYTES}; train a narrower network"
        )
    model_file = folder / version / "model.onnx"
    model_file.parent.mkdir(parents=True, exist_ok=True)
    model_file.write_bytes(content)
    if labels := labels_of(contract.parameters):
        (folder / "labels.txt").write_text("".join(f"{label}\n" for label in labels))
    (folder / "config.pbtxt").write_text(_config(folder, version, stage, contract))
    return model_file


def write_variant(model_file: Path, graph: onnx.ModelProto, repository: Path, ending: str) -> Path:
    """Write a model's graph in other arithmetic as the model ``NAME_ENDING``, with the same configuration.

    Its doubler is the one in the same arithmetic, if the repository has that.

    Args:
        model_file: ``model.onnx`` of a version of the model, in a model repository.
        graph: The variant's graph.
        repository: The model repository to write into; created if missing.
        ending: Ending of its name.

    Returns:
        Its file. If it is there already with the same content, nothing is written: its card and operating points
        may be its own by now.

    Raises:
        UsageError: If the file is larger than ``MOST_BYTES``, or that version of the variant has other content.
    """
    source = model_file.parent.parent
    folder = repository / f"{source.name}_{ending}"
    content = graph.SerializeToString(deterministic=True)
    if len(content) > MOST_BYTES:
        raise UsageError(
            f"{folder.name} takes {len(content)} bytes, more than {MOST_BYTES}; start from a narrower network"
        )
    made = folder / model_file.parent.name / "model.onnx"
    if made.is_file():
        if made.read_bytes() != content:
            raise UsageError(f"{made} holds another variant already: name another --repository, or delete it")
        if _configured(folder, model_file.parent.name):
            return made
    made.parent.mkdir(parents=True, exist_ok=True)
    made.write_bytes(content)
    if (labels := source / "labels.txt").is_file():
        (folder / "labels.txt").write_bytes(labels.read_bytes())
    if (card := source / "MODEL_CARD.md").is_file():
        (folder / "MODEL_CARD.md").write_text(_variants_card(card.read_text(), source.name, ending, len(content)))
    config = read_config(source)
    config.name = folder.name
    beside = parameters_of(config).get(DOUBLER)
    if beside and f"{beside}_{ending}" in served_models(repository):
        config.parameters[DOUBLER].string_value = f"{beside}_{ending}"
    for name in [name for name in config.parameters if name.partition(".")[0] in ("sha256", RISK, SETS)]:
        del config.parameters[name]
    for version in versions(folder):
        digest = file_digest(folder / version / "model.onnx")
        config.parameters[f"sha256.{version}"].string_value = digest
    # Last: once it is there, so is all the rest.
    (folder / "config.pbtxt").write_text(str(config))
    return made


def _configured(folder: Path, version: str) -> bool:
    """Whether the configuration, which is written last, knows a version."""
    return (folder / "config.pbtxt").is_file() and f"sha256.{version}" in read_config(folder).parameters


def _variants_card(card: str, name: str, ending: str, size: int) -> str:
    """The card of the model that a variant is of, except for name, size and operating points, which it lacks."""
    card = re.sub(rf"^# {re.escape(name)},", f"# {name}_{ending},", card)
    card = re.sub(r"[\d,]+ bytes as served", f"{size:,} bytes as served", card)
    card = re.sub(r"## Operating points\n.*?(?=^## |\Z)", "", card, flags=re.DOTALL | re.MULTILINE)
    return f"{card}\nComputed in {ending}: its figures are not those above, which are of `{name}`.\n"


def versions(folder: Path) -> list[str]:
    """The versions of a model in its folder, oldest first."""
    names = (path.parent.name for file in ("model.onnx", STEPS) for path in folder.glob(f"*/{file}"))
    return sorted((name for name in names if name.isdecimal()), key=int)


def _config(folder: Path, version: str, stage: Stage | None, contract: Contract) -> str:
    parameters = ({"stage": str(stage)} if stage else {}) | dict(contract.parameters)
    parameters |= _of_other_versions(folder, version)
    tile = parameters.get("tile")
    warmup = (int(tile), int(tile)) if tile else WARMUP
    for number in versions(folder):
        parameters[f"sha256.{number}"] = file_digest(folder / number / "model.onnx")
    return Template(_CONFIG).substitute(
        name=folder.name,
        batch=MOST_ROWS,
        inputs=",\n".join(f"  {{ {tensor_text(tensor)} }}" for tensor in contract.inputs),
        outputs=",\n".join(_output(tensor, labels_of(parameters)) for tensor in contract.outputs),
        warmup="\n".join(_zeros(tensor, warmup) for tensor in contract.inputs),
        parameters=parameter_lines(parameters),
    )


def _of_other_versions(folder: Path, version: str) -> dict[str, str]:
    """Operating points of the other versions; those of this one were set for another file."""
    if not (folder / "config.pbtxt").is_file():
        return {}
    there = read_config(folder).parameters
    kept = [f"{kind}.{number}" for number in versions(folder) if number != version for kind in (RISK, SETS)]
    return {name: there[name].string_value for name in kept if name in there}


def _output(tensor: Tensor, labels: tuple[str, ...]) -> str:
    names = ' label_filename: "labels.txt"' if labels and tensor.dims == (len(labels),) else ""
    return f"  {{ {tensor_text(tensor)}{names} }}"


def _zeros(tensor: Tensor, size: tuple[int, int]) -> str:
    sides = (*size, *tensor.dims[2:])[: len(tensor.dims)] if tensor.dims[0] < 0 else tensor.dims
    dims = ", ".join(str(side if dim < 0 else dim) for dim, side in zip(tensor.dims, sides, strict=True))
    value = f"data_type: {DATA_TYPES[tensor.dtype]} dims: [ {dims} ] zero_data: true"
    return f'    inputs {{ key: "{tensor.name}" value: {{ {value} }} }}'
