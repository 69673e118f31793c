"""A model as served: its name, version and tensors, checked against its stage's contract."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dermbatch.errors import DermbatchError, ModelContractError
from dermbatch.models.contracts import (
    CONTRACTS,
    DATA_TYPES,
    ENCODES_SUPPORT,
    NUMBERS,
    PATTERNS,
    SCALE,
    SCALED,
    Contract,
    Tensor,
)
from dermbatch.records.outcome import Device, ModelUsed
from dermbatch.stages import Stage

Array = NDArray[Any]


@dataclass(frozen=True)
class ServedModel:
    """One version of one model, as its own configuration describes it.

    Attributes:
        name: Name in the model repository.
        version: The exact version, never "the newest"; empty if the model comes from a file.
        sha256: Digest of the version's file; empty in the same case.
        max_batch: Largest batch of one request; 0 if the model's tensors have no batch dimension.
        shapes: Tensor name to shape without the batch dimension; -1 if free.
        parameters: ``parameters`` of the configuration.
        device: What its instances run on, according to the configuration; an ensemble's does not say.
    """

    name: str
    version: str = ""
    sha256: str = ""
    max_batch: int = 0
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)
    device: Device = "unknown"

    @property
    def used(self) -> ModelUsed:
        """What records and stage keys say about it."""
        return ModelUsed(name=self.name, version=self.version, sha256=self.sha256)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of ``IMAGE``; -1 if free."""
        height, width, *_ = self.shapes.get("IMAGE", (-1, -1))
        return height, width

    @property
    def takes_support(self) -> bool:
        """Whether it has to be shown a support: a picture of the disease with its lesion drawn."""
        return "PROTOTYPES" in self.shapes

    @property
    def labels(self) -> tuple[str, ...]:
        """Classes in the order of ``PROBABILITIES``; empty where its configuration names none."""
        return labels_of(self.parameters)

    def map_shape(self, name: str, image: Array) -> tuple[int, ...] | None:
        """Shape that the contract promises for an output map.

        Args:
            name: Name of the output.
            image: [H, W, 3], what the model is given.

        Returns:
            Without the batch dimension; none for outputs that are not maps of the image.

        Raises:
            ModelContractError: If the model's scale is not a number.
        """
        shape = self.shapes.get(name, ())
        if len(shape) < 2 or name == PATTERNS.name:
            return None
        scale = int(self.number("scale", SCALE)) if name in SCALED else 1
        return scale * image.shape[0], scale * image.shape[1], *shape[2:]

    def number(self, name: str, default: float) -> float:
        """A parameter of the configuration as a number.

        Raises:
            ModelContractError: If it is present but not a number.
        """
        text = self.parameters.get(name)
        if text is None:
            return default
        with suppress(ValueError):
            if math.isfinite(number := float(text)):
                return number
        raise self.broken(f"has {text!r} as parameter {name!r}, which is not a number")

    def require(self, stage: Stage, inputs: set[str], outputs: set[str]) -> None:
        """Refuse a model whose tensors are not those of a stage.

        Args:
            stage: The stage that it is to serve.
            inputs: Names of what it takes.
            outputs: Names of what it gives.

        Raises:
            ModelContractError: If one is missing, or one more is wanted.
        """
        self.keep(CONTRACTS[stage], inputs, outputs, f"serve {stage}", f"the {stage} stage has")

    def keep(self, contract: Contract, inputs: set[str], outputs: set[str], what: str, told: str) -> None:
        """As :meth:`require`, for any contract.

        Args:
            contract: To be kept.
            inputs: Names of what it takes.
            outputs: Names of what it gives.
            what: What the model cannot do otherwise, for the error's sentence.
            told: How the sentence leads on to what the contract has.

        Raises:
            ModelContractError: If one is missing, or one more is wanted.
        """
        taken = [tensor.name for tensor in contract.inputs if not tensor.optional]
        given = [tensor.name for tensor in contract.outputs if not tensor.optional]
        missing = [name for name in taken if name not in inputs] + [name for name in given if name not in outputs]
        extra = inputs.difference(tensor.name for tensor in contract.inputs)
        if missing or extra:
            how = f"has no tensor {', '.join(missing)}" if missing else f"wants {listed(extra)} as well"
            found = f"It takes {listed(inputs)} and gives {listed(outputs)}"
            raise self.broken(f"cannot {what}: it {how}. {found}; {told} {listed(taken)} and {listed(given)}")

    def keep_types(self, wanted: Iterable[Tensor], types: Mapping[str, str]) -> None:
        """Refuse a model whose tensors have other types or shapes than a contract's.

        Args:
            wanted: Tensors of the contract; those that the model lacks are passed over.
            types: Triton's names of the types of the model's tensors.

        Raises:
            ModelContractError: If one has another type or shape.
        """
        for tensor in wanted:
            if tensor.name not in types:
                continue
            if types[tensor.name] != DATA_TYPES[tensor.dtype]:
                raise self.broken(f"gives or takes {tensor.name} as {types[tensor.name]}, not as {tensor.dtype}")
            shape = self.shapes.get(tensor.name, tensor.dims)
            pairs = zip(shape, tensor.dims, strict=False)
            if len(shape) != len(tensor.dims) or any(want not in (-1, have) for have, want in pairs):
                dims = ", ".join("any" if dim < 0 else str(dim) for dim in tensor.dims)
                raise self.broken(f"has {tensor.name} of shape {list(shape)}, not [{dims}]")

    def checked(self, name: str, value: Array, shape: tuple[int, ...]) -> Array:
        """``value``, if it has the shape that the contract promises.

        Raises:
            ModelContractError: If it has another.
        """
        if value.shape != shape:
            raise self.broken(f"answered {name} of shape {list(value.shape)}, not {list(shape)}")
        return np.ascontiguousarray(value)

    def broken(self, how: str) -> DermbatchError:
        """An error that says how this model breaks its contract."""
        return ModelContractError(f"model {self.name} version {self.version} {how}")


def describe(stage: Stage | None, version: str, config: Any) -> ServedModel:
    """Read a ``ModelConfig`` message and check it against the stage's contract.

    Args:
        stage: Whose contract it must keep; none: that of a model which makes a support's prototypes.
        version: The version to be read.
        config: Triton's ``ModelConfig``, as its gRPC endpoint gives it.

    Raises:
        ModelContractError: If tensors, the file's digest or another parameter are missing or wrong.
    """
    parameters = parameters_of(config)
    tensors = {tensor.name: tensor for tensor in [*config.input, *config.output]}
    model = ServedModel(
        name=config.name,
        version=version,
        sha256=parameters.get(f"sha256.{version}", ""),
        max_batch=config.max_batch_size,
        shapes={name: tuple(tensor.dims) for name, tensor in tensors.items()},
        parameters=parameters,
        device=_device(config),
    )
    names = {tensor.name for tensor in config.input}, {tensor.name for tensor in config.output}
    if stage is None:
        model.keep(ENCODES_SUPPORT, *names, "encode a support", "such a model has")
    else:
        model.require(stage, *names)
    contract = ENCODES_SUPPORT if stage is None else CONTRACTS[stage]
    types = {name: type_name(tensor) for name, tensor in tensors.items()}
    model.keep_types((*contract.inputs, *contract.outputs), types)
    if config.model_transaction_policy.decoupled:
        raise model.broken("answers in streams (model_transaction_policy decoupled), but every stage asks once")
    if not model.sha256:
        raise model.broken(f"states no file digest: give its config.pbtxt the parameter 'sha256.{version}'")
    _check_parameters(stage, model)
    return model


def _device(config: Any) -> Device:
    """From ``instance_group``, which Triton fills in if it is missing; one instance on a GPU counts for all."""
    kinds = {group.Kind.Name(group.kind) for group in config.instance_group}
    if "KIND_GPU" in kinds:
        return "gpu"
    return "cpu" if "KIND_CPU" in kinds else "unknown"


def parameters_of(config: Any) -> dict[str, str]:
    """``parameters`` of a ``ModelConfig`` message."""
    return {name: value.string_value for name, value in config.parameters.items()}


def type_name(tensor: Any) -> str:
    """Triton's name of the type of a configuration's tensor, such as ``TYPE_UINT8``."""
    field_type = tensor.DESCRIPTOR.fields_by_name["data_type"].enum_type
    return str(field_type.values_by_number[tensor.data_type].name)


def _check_parameters(stage: Stage | None, model: ServedModel) -> None:
    for name in NUMBERS:
        model.number(name, 0)
    if stage is not Stage.CLASSIFY:
        return
    if not model.labels:
        raise model.broken("names no classes: give its config.pbtxt the parameter 'labels'")
    (count,) = model.shapes["PROBABILITIES"]
    if count not in (-1, len(model.labels)):
        raise model.broken(f"gives {count} probabilities, but its parameter 'labels' names {len(model.labels)}")


def listed(names: Iterable[str]) -> str:
    """Names in order, for a sentence."""
    return ", ".join(sorted(names)) or "nothing"


def labels_of(parameters: Mapping[str, str]) -> tuple[str, ...]:
    """Classes in the order of ``PROBABILITIES``; empty if a model's parameters name none."""
    return tuple(filter(None, (label.strip() for label in parameters.get("labels", "").split(","))))
