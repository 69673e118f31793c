"""ImageNet weights of MobileNetV2 from a quantised TensorFlow Lite file.

A .tflite file holds each convolution's weights as int8 (symmetric, one scale for each output channel) or uint8
(one scale and zero point for each tensor) and its bias as int32, with batch norm folded in. A weight is scale x (q
- zero point).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from dermbatch.errors import UsageError
from lesionnets.nets.classify.mobilenet import MobileNetV2

Values = npt.NDArray[np.float32]


def read_convolutions(path: Path) -> list[tuple[Values, Values]]:
    """Weights and biases of all convolutions of a .tflite file, in order of execution, as float32.

    Returns:
        Weights in PyTorch's layout [outputs, inputs / groups, kernel, kernel], biases [outputs].

    Raises:
        UsageError: If the file is missing or is not a TensorFlow Lite model.
    """
    import tflite  # noqa: PLC0415 - of the training extra; evaluation and export do without

    if not path.is_file():
        raise UsageError(f"there is no weight file {path}")
    content = path.read_bytes()
    if content[4:8] != b"TFL3":
        raise UsageError(f"{path} is not a TensorFlow Lite model")
    model = tflite.Model.GetRootAsModel(content, 0)
    graph = model.Subgraphs(0)
    found = []
    for number in range(graph.OperatorsLength()):
        operator = graph.Operators(number)
        code = model.OperatorCodes(operator.OpcodeIndex())
        kind = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        if kind not in (tflite.BuiltinOperator.CONV_2D, tflite.BuiltinOperator.DEPTHWISE_CONV_2D):
            continue
        is_depthwise = kind == tflite.BuiltinOperator.DEPTHWISE_CONV_2D
        weight = _dequantise(model, graph.Tensors(operator.Inputs(1)), axis=3 if is_depthwise else 0)
        bias = _dequantise(model, graph.Tensors(operator.Inputs(2)), axis=0)
        # [1, k, k, channels] or [outputs, k, k, inputs] to [outputs, inputs, k, k].
        order = (3, 0, 1, 2) if is_depthwise else (0, 3, 1, 2)
        found.append((np.ascontiguousarray(weight.transpose(order)), bias))
    return found


def _dequantise(model: Any, tensor: Any, *, axis: int) -> Values:
    import tflite  # noqa: PLC0415

    kinds = {
        tflite.TensorType.UINT8: np.uint8,
        tflite.TensorType.INT8: np.int8,
        tflite.TensorType.INT32: np.int32,
    }
    content = model.Buffers(tensor.Buffer()).DataAsNumpy()
    raw = np.frombuffer(content.tobytes(), np.dtype(kinds[tensor.Type()]))
    quantised = raw.reshape(tensor.ShapeAsNumpy()).astype(np.float64)
    quantisation = tensor.Quantization()
    shape = [1] * quantised.ndim
    shape[axis] = -1 if quantisation.ScaleLength() > 1 else 1
    scale = quantisation.ScaleAsNumpy().astype(np.float64).reshape(shape)
    zero = np.reshape(quantisation.ZeroPointAsNumpy(), shape)
    return np.asarray((quantised - zero) * scale, np.float32)


def load_mobilenet(model: MobileNetV2, path: Path) -> tuple[Tensor, Tensor]:
    """Load the weights of a .tflite file into a backbone.

    Returns:
        Weight [1001, 1280] and bias [1001] of ImageNet's classifier, for which the backbone has no layer.

    Raises:
        UsageError: If the file is not a MobileNetV2 of width 1.0.
    """
    layers = read_convolutions(path)
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    shapes = [tuple(layer.weight.shape) for layer in convolutions]
    if [weight.shape for weight, _ in layers[:-1]] != shapes:
        raise UsageError(f"{path} is not a MobileNetV2 of width 1.0")
    with torch.no_grad():
        for layer, (weight, bias) in zip(convolutions, layers, strict=False):
            layer.weight.copy_(torch.from_numpy(weight))
            assert layer.bias is not None  # noqa: S101 - for the type checker: Convolution always has one
            layer.bias.copy_(torch.from_numpy(bias))
    weight, bias = layers[-1]
    return torch.from_numpy(weight[:, :, 0, 0].copy()), torch.from_numpy(bias.copy())


def imagenet_weights(data: Path) -> Path:
    """MobileNetV2's file in ``DATA/../weights``: the one of the two that has a scale for every channel."""
    return data.parent / "weights" / "mobilenet_v2_imagenet" / "tf2_mobilenet_v2_1.0_224_ptq.tflite"
