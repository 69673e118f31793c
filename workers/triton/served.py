"""A model as Triton serves it: its name, version and tensors, checked against its stage's contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dermbatch.errors import ModelContractError
from dermbatch.models.contracts import CONTRACTS, SCALE, SCALED, Tensor
from dermbatch.records import ModelChoice, ModelUsed
from dermbatch.stages import Stage

Array = NDArray[Any]

_DTYPES = {"TYPE_UINT8": "uint8", "TYPE_FP32": "float32"}


@dataclass(frozen=True)
class ServedModel:
    """One version of one model, as its own configuration describes it.

    Attributes:
        name: Name in the model repository.
        version: The version that is meant; never "the newest".
        sha256: Digest of the version's file.
        max_batch: Largest batch of one request; 0 where the model's tensors have no batch dimension.
        shapes: Tensor name to shape without the batch dimension; -1 where free.
        parameters: ``parameters`` of the configuration.
    """

    name: str
    version: str
    sha256: str
    max_batch: int
    shapes: Mapping[str, tuple[int, ...]]
    parameters: Mapping[str, str] = field(default_factory=dict)

    @property
    def used(self) -> ModelUsed:
        """What records and stage keys say of it."""
        return ModelUsed(name=self.name, version=self.version, sha256=self.sha256)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of ``IMAGE``; -1 where free."""
        height, width, _ = self.shapes["IMAGE"]
        return height, width

    @property
    def labels(self) -> tuple[str, ...]:
        """Classes in the order of ``PROBABILITIES``.

        Raises:
            ModelContractError: Where the configuration names none.
        """
        labels = tuple(label.strip() for label in self.parameters.get("labels", "").split(",") if label.strip())
        if not labels:
            raise self.broken("names no classes: give its config.pbtxt the parameter 'labels'")
        return labels

    def map_shape(self, name: str, image: Array) -> tuple[int, ...] | None:
        """Shape that the contract promises for an output map.

        Args:
            name: Of the output.
            image: [H, W, 3], what the model is given.

        Returns:
            Without the batch dimension; none for outputs that are no maps of the image.

        Raises:
            ModelContractError: Where the model's scale is no number.
        """
        shape = self.shapes.get(name, ())
        if len(shape) < 2:
            return None
        scale = int(self.number("scale", SCALE)) if name in SCALED else 1
        return scale * image.shape[0], scale * image.shape[1], *shape[2:]

    def number(self, name: str, default: float) -> float:
        """A parameter of the configuration as a number.

        Raises:
            ModelContractError: Where it is there and no number.
        """
        text = self.parameters.get(name)
        if text is None:
            return default
        try:
            return float(text)
        except ValueError as error:
            raise self.broken(f"has {text!r} as parameter {name!r}, which is no number") from error

    def broken(self, how: str) -> ModelContractError:
        """An error that says how this model breaks its contract."""
        return ModelContractError(f"model {self.name} version {self.version} {how}")


class Inference(Protocol):
    """What the stages need of Triton."""

    def model(self, stage: Stage, choice: ModelChoice) -> ServedModel:
        """The model that serves a stage now."""

    def infer(self, model: ServedModel, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Run a model on one item; tensors without the batch dimension."""

    def infer_many(
        self, model: ServedModel, items: Sequence[Mapping[str, Array]], outputs: Sequence[str]
    ) -> list[dict[str, Array]]:
        """Run a model on several items of equal shapes, keeping the server busy; answers in order."""


def describe(stage: Stage, version: str, config: Any) -> ServedModel:
    """Read a ``ModelConfig`` message and check it against the stage's contract.

    Args:
        stage: Whose contract it must keep.
        version: The version that is meant.
        config: Triton's ``ModelConfig``, as its gRPC endpoint gives it.

    Raises:
        ModelContractError: Where tensors or the file's digest are missing or wrong.
    """
    parameters = {name: value.string_value for name, value in config.parameters.items()}
    tensors = {tensor.name: tensor for tensor in [*config.input, *config.output]}
    model = ServedModel(
        name=config.name,
        version=version,
        sha256=parameters.get(f"sha256.{version}", ""),
        max_batch=config.max_batch_size,
        shapes={name: tuple(tensor.dims) for name, tensor in tensors.items()},
        parameters=parameters,
    )
    for wanted in (*CONTRACTS[stage].inputs, *CONTRACTS[stage].outputs):
        if wanted.name in tensors:
            _check(model, wanted, _type_name(tensors[wanted.name]))
        elif not wanted.optional:
            raise model.broken(f"cannot serve {stage}: it has no tensor {wanted.name}")
    given = {tensor.name for tensor in config.input}
    if extra := given - {tensor.name for tensor in CONTRACTS[stage].inputs}:
        raise model.broken(f"cannot serve {stage}: it wants {', '.join(sorted(extra))} as well")
    if not model.sha256:
        raise model.broken(f"states no file digest: give its config.pbtxt the parameter 'sha256.{version}'")
    return model


def _type_name(tensor: Any) -> str:
    field_type = tensor.DESCRIPTOR.fields_by_name["data_type"].enum_type
    return str(field_type.values_by_number[tensor.data_type].name)


def _check(model: ServedModel, wanted: Tensor, type_name: str) -> None:
    if _DTYPES.get(type_name) != wanted.dtype:
        raise model.broken(f"gives or takes {wanted.name} as {type_name}, not as {wanted.dtype}")
    shape = model.shapes[wanted.name]
    fits = len(shape) == len(wanted.dims) and all(
        want is None or have == want for have, want in zip(shape, wanted.dims, strict=True)
    )
    if not fits:
        raise model.broken(f"has {wanted.name} of shape {list(shape)}, not {_dims(wanted)}")


def _dims(tensor: Tensor) -> str:
    return "[" + ", ".join("any" if dim is None else str(dim) for dim in tensor.dims) + "]"


def checked(model: ServedModel, name: str, value: Array, shape: tuple[int, ...]) -> Array:
    """``value``, where it has the shape that the contract promises.

    Raises:
        ModelContractError: Where it has another.
    """
    if value.shape != shape:
        raise model.broken(f"answered {name} of shape {list(value.shape)}, not {list(shape)}")
    return np.ascontiguousarray(value)
