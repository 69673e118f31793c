"""A Triton ensemble in a model repository: models that run one after the other under one name.

A version's folder contains ``steps.txt`` with a line for each step: model, version, digest of that version's file.
The digest of ``steps.txt`` is the ensemble version's own, ``sha256.<version>`` in ``config.pbtxt``, so it changes
with any weight of any step. Triton reads one configuration for all versions of a model, and would run the newest
steps under an older version's number. So an ensemble has one version at a time, and a second one needs a name of
its own.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

from dermbatch.models.contracts import Contract
from dermbatch.models.repository import file_digest
from dermbatch.stages import Stage
from lesionnets.graphs.contract import parameter_lines, tensor_text

STEPS = "steps.txt"

_CONFIG = """\
# Written by `lesionnets export`.
name: "$name"
platform: "ensemble"
max_batch_size: $batch
input [
$inputs
]
output [
$outputs
]
version_policy { all { } }
ensemble_scheduling {
  step [
$steps
  ]
}
# For the worker: what the stage needs to know of the model, and the digest of steps.txt.
$parameters
"""


@dataclass(frozen=True)
class EnsembleStep:
    """One model of an ensemble.

    Attributes:
        model: Its name.
        version: The exact version, never "the newest".
        sha256: Digest of that version's file.
        inputs: From each input of the model to the ensemble's tensor that it is given.
        outputs: From each output of the model to the ensemble's tensor that it becomes.
    """

    model: str
    version: str
    sha256: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


def write_ensemble(
    folder: Path, version: str, steps: Sequence[EnsembleStep], *, stage: Stage, contract: Contract, batch: int
) -> Path:
    """Write the ensemble ``folder.name`` with its configuration; other versions of it are removed.

    Args:
        folder: Folder of the model; created if missing.
        version: A whole number above 0.
        steps: In running order.
        stage: The stage whose contract it keeps.
        contract: Its input and output tensors.
        batch: Largest batch of a request, the same as for its steps.

    Returns:
        The version's ``steps.txt``.
    """
    for other in folder.glob("[0-9]*"):
        shutil.rmtree(other)
    steps_file = folder / version / STEPS
    steps_file.parent.mkdir(parents=True)
    steps_file.write_text("".join(f"{step.model} {step.version} {step.sha256}\n" for step in steps))
    digest = file_digest(steps_file)
    parameters = {"stage": str(stage)} | dict(contract.parameters) | {f"sha256.{version}": digest}
    text = Template(_CONFIG).substitute(
        name=folder.name,
        batch=batch,
        inputs=",\n".join(f"  {{ {tensor_text(tensor)} }}" for tensor in contract.inputs),
        outputs=",\n".join(f"  {{ {tensor_text(tensor)} }}" for tensor in contract.outputs),
        steps=",\n".join(_step(step) for step in steps),
        parameters=parameter_lines(parameters),
    )
    (folder / "config.pbtxt").write_text(text)
    return steps_file


def _step(step: EnsembleStep) -> str:
    lines = [f'model_name: "{step.model}" model_version: {step.version}']
    for kind, tensors in (("input_map", step.inputs), ("output_map", step.outputs)):
        lines += [f'{kind} {{ key: "{own}" value: "{shared}" }}' for own, shared in tensors.items()]
    return "    {\n" + "".join(f"      {line}\n" for line in lines) + "    }"
