"""What graphs in int8 are made of."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper


def int8_weights(model: onnx.ModelProto) -> list[npt.NDArray[np.int64]]:
    """The weights of a graph's convolutions that are in int8."""
    return [
        numpy_helper.to_array(one).astype(int)
        for one in model.graph.initializer
        if one.data_type == onnx.TensorProto.INT8 and len(one.dims) == 4
    ]
