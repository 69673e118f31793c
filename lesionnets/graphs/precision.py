"""Variants of a model's graph: int8 for processors that multiply bytes, float16 for GPUs.

Inputs and outputs keep their types, and everything but convolutions stays in float32, so scaling, normalisation
and resampling around the network do not change. A variant is another model with a digest of its own.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper
from onnxruntime import quantization

from dermbatch.errors import UsageError
from lesionnets.graphs.assembly import IR_VERSION

Inputs = Mapping[str, npt.NDArray[np.uint8]]
"""Tensors of one request by name, with the batch dimension."""

LEAST_CHANNELS = 8
"""Convolutions with fewer channels in or out stay as they are: the first, which sees the picture, and the last."""


class Precision(StrEnum):
    """The arithmetic of the convolutions."""

    FLOAT16 = "float16"
    INT8 = "int8"


class _Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
    """Passes inputs to the calibration one after another, or a range of them if not all fit into memory."""

    def __init__(self, inputs: Sequence[Inputs]) -> None:
        self._inputs = inputs
        self._left = iter(inputs)

    def __len__(self) -> int:
        return len(self._inputs)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Pass on these inputs from now on."""
        self._left = iter(self._inputs[start_index:end_index])

    def get_next(self) -> Inputs | None:
        """The next inputs, or None at the end."""
        return next(self._left, None)


def whole_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A graph with float32 weights again where they were stored as float16 with a cast.

    The reverse of :func:`lesionnets.graphs.assembly.halve_weights`, except for what rounding lost.

    Args:
        model: The graph; it is not changed.
    """
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    halves = {one.name: one for one in whole.graph.initializer if one.data_type == onnx.TensorProto.FLOAT16}
    kept = []
    for node in whole.graph.node:
        if node.op_type == "Cast" and node.input[0] in halves:
            tensor = halves[node.input[0]]
            values = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, node.output[0]))
        else:
            kept.append(node)
    del whole.graph.node[:]
    whole.graph.node.extend(kept)
    return whole


def to_int8(
    model: onnx.ModelProto, inputs: Iterable[Inputs], *, spare: int = 0, percentile: float = 100.0
) -> onnx.ModelProto:
    """A graph with wide convolutions in 8 bits, calibrated by the ranges of values on real inputs.

    Static quantisation (Jacob et al., CVPR 2018, sections 2 and 3): activations in one unsigned byte with a scale
    for each tensor, weights in 7 bits with a scale for each output channel. With 8 bits, the sum of two products
    can exceed the 16 bits in which processors without VNNI add them up; it is cut off there, so the model would
    give other answers. A ReLU after a convolution is computed with it, so that no step of the scale is spent on
    values that it cuts off.

    Args:
        model: The graph as it is served; it is not changed.
        inputs: Inputs as it will be given, from training images.
        spare: How many of the last wide convolutions stay in float32, because nothing after them makes up for
            errors.
        percentile: Percentage of a tensor's values that its range holds. Half of the rest lie on either side and
            are cut off: where few values are several times the others, a range that held them would be too coarse.

    Raises:
        UsageError: If there are no inputs, or no convolution is wide enough.
    """
    whole = whole_weights(model)
    wide = wide_convolutions(whole)
    if not wide:
        raise UsageError("the model has no convolution wide enough for int8")
    if spare >= len(wide):
        raise UsageError(f"the model has {len(wide)} convolutions wide enough for int8; spare fewer than all")
    chosen = wide[: len(wide) - spare]
    given = list(inputs)
    if not given:
        raise UsageError("there are no images to calibrate with; name some with --images")
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder) / "before.onnx", Path(folder) / "after.onnx"
        onnx.save(whole, before)
        with _quiet():
            quantization.quantize_static(
                before,
                after,
                _Reader(given),
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=["Conv", "Relu"],
                nodes_to_quantize=[*chosen, *_cut_off(whole, chosen)],
                per_channel=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                reduce_range=True,
                **(_within(percentile) if percentile < 100 else {}),
            )
        found = onnx.load(after)
    _spare_others(found)
    return _plain(found)


def to_float16(model: onnx.ModelProto) -> onnx.ModelProto:
    """A graph with wide convolutions in float16, with casts around each.

    For GPUs, which drop casts between neighbours. On processors ONNX Runtime still computes in float32.

    Args:
        model: The graph as it is served; it is not changed.

    Raises:
        UsageError: If no convolution is wide enough, or weights are beyond float16's range.
    """
    whole = whole_weights(model)
    if not (chosen := set(wide_convolutions(whole))):
        raise UsageError("the model has no convolution wide enough for float16")
    tensors = {tensor.name: tensor for tensor in whole.graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in whole.graph.node:
        nodes += _halved(node, tensors) if node.name in chosen else [node]
    del whole.graph.node[:]
    whole.graph.node.extend(nodes)
    return _plain(whole)


def _halved(node: onnx.NodeProto, tensors: Mapping[str, onnx.TensorProto]) -> list[onnx.NodeProto]:
    """A convolution in float16 between two casts; its weights, which no other node shares, become float16."""
    half, single = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    picture, result = node.input[0], node.output[0]
    casts = [helper.make_node("Cast", [picture], [f"{result}/in"], to=half)]
    node.input[0], node.output[0] = f"{result}/in", f"{result}/out"
    for index in range(1, len(node.input)):
        tensor = tensors[node.input[index]]
        if tensor.data_type == single:
            values = numpy_helper.to_array(tensor)
            if np.abs(values).max() > np.finfo(np.float16).max:
                raise UsageError(f"{tensor.name} has weights beyond the range of float16")
            tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), tensor.name))
    return [*casts, node, helper.make_node("Cast", [f"{result}/out"], [result], to=single)]


def wide_convolutions(model: onnx.ModelProto) -> list[str]:
    """Names of the convolutions with constant weights and at least ``LEAST_CHANNELS`` channels in and out."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    return [
        node.name
        for node in model.graph.node
        if node.op_type == "Conv"
        and all(name in shapes for name in node.input[1:])
        and _is_wide(shapes.get(node.input[1], ()), _groups(node))
    ]


def _within(percentile: float) -> dict[str, Any]:
    """Ranges by histograms, to which the values of one request at a time are added."""
    return {
        "calibrate_method": quantization.CalibrationMethod.Percentile,
        "extra_options": {"CalibPercentile": percentile, "CalibStridedMinMax": 1},
    }


def _cut_off(model: onnx.ModelProto, convolutions: list[str]) -> list[str]:
    """Names of the ReLUs that read the outputs of these convolutions."""
    given = {name for node in model.graph.node if node.name in convolutions for name in node.output}
    return [node.name for node in model.graph.node if node.op_type == "Relu" and node.input[0] in given]


def _spare_others(model: onnx.ModelProto) -> None:
    """Hand what was rounded for a convolution in bytes to that alone: others read it as it was in float32."""
    made = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        if node.op_type in {"Conv", "QuantizeLinear"}:
            continue
        for index, name in enumerate(node.input):
            back = made.get(name)
            if back is not None and back.op_type == "DequantizeLinear" and back.input[0] in made:
                source = made[back.input[0]].input[0]
                if not _by_bytes(source, made):
                    node.input[index] = source


def _by_bytes(name: str, made: Mapping[str, onnx.NodeProto]) -> bool:
    """Whether a value is computed by a convolution that takes bytes, or by a ReLU after one."""
    node = made.get(name)
    while node is not None and node.op_type == "Relu":
        node = made.get(node.input[0])
    if node is None or node.op_type != "Conv":
        return False
    before = made.get(node.input[0])
    return before is not None and before.op_type == "DequantizeLinear"


def _is_wide(shape: tuple[int, ...], groups: int) -> bool:
    """Convolutions of each channel by itself count; those of small groups interpolate, and stay exact."""
    grouped = groups > 1 and 1 < shape[1] < LEAST_CHANNELS
    return len(shape) == 4 and min(shape[0], shape[1] * groups) >= LEAST_CHANNELS and not grouped


def _groups(node: onnx.NodeProto) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)


def _plain(model: onnx.ModelProto) -> onnx.ModelProto:
    """A graph without traces of the tools, and with the version that is served."""
    model.ir_version = IR_VERSION
    model.producer_name, model.producer_version = "", ""
    del model.metadata_props[:]
    used = {node.domain for node in model.graph.node}
    kept = [entry for entry in model.opset_import if entry.domain in used or not entry.domain]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    onnx.checker.check_model(model)
    return model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the tool's advice, whose preprocessing does not allow free sizes, and its report of histograms."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        root.setLevel(level)
