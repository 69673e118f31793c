"""Building blocks of the graphs: export a network as ONNX, and join graphs by the names of their tensors."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Mapping, Sequence
from string import Template
from typing import Any

import numpy as np
import onnx
import torch
from onnx import compose, helper, numpy_helper, parser
from torch import nn

OPSET = 18
"""The first operator set with antialiased Resize; all ONNX Runtimes since 1.14 (2023) run it."""
IR_VERSION = 8


def parse(text: str, **values: object) -> onnx.ModelProto:
    """A graph from ONNX's textual form, in which ``$name``, ``$ir_version`` and ``$opset`` are replaced."""
    return parser.parse_model(Template(text).substitute(values, ir_version=IR_VERSION, opset=OPSET))


def export_network(
    network: nn.Module,
    example: Sequence[torch.Tensor],
    *,
    inputs: Sequence[str],
    outputs: Sequence[str],
    multiple: int = 1,
) -> onnx.ModelProto:
    """Export a network as ONNX, for any batch size, height and width.

    Args:
        network: Put into evaluation mode.
        example: An input tensor [N, C, H, W] for each name, with sides that are multiples of ``multiple``.
        inputs: Names of the inputs.
        outputs: Names of the outputs.
        multiple: The number of which heights and widths must be multiples.
    """
    batch, rows, columns = (torch.export.Dim(name) for name in ("N", "rows", "columns"))
    sides = {2: multiple * rows, 3: multiple * columns} if multiple > 1 else {2: rows, 3: columns}
    return to_onnx(network, example, inputs=inputs, outputs=outputs, free=[{0: batch} | sides for _ in example])


def to_onnx(
    module: nn.Module,
    example: Sequence[torch.Tensor],
    *,
    inputs: Sequence[str],
    outputs: Sequence[str],
    free: Sequence[Mapping[int, Any]],
) -> onnx.ModelProto:
    """Export a module as ONNX, without traces of the machine that did it.

    Args:
        module: Put into evaluation mode.
        example: One tensor for each input.
        inputs: Names of the inputs.
        outputs: Names of the outputs.
        free: The free axes of each input, each with a name or a ``torch.export.Dim``.
    """
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        # The exporter prints its own deprecations and progress.
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            module.eval(),
            tuple(example),
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_shapes=tuple(dict(axes) for axes in free),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("the exporter gave no program")
    model = program.model_proto
    model.ir_version = IR_VERSION
    del model.metadata_props[:]
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    return model


def join(name: str, *parts: onnx.ModelProto, inputs: Sequence[str], outputs: Sequence[str]) -> onnx.ModelProto:
    """Join graphs that run one after another into one; tensors with the same name are the same tensor.

    The inner tensors of a part are invisible to the others; only inputs and outputs connect.

    Args:
        name: Name of the graph.
        parts: In running order.
        inputs: Which inputs of the parts are inputs of the whole.
        outputs: Which outputs of the parts are outputs of the whole.
    """
    nodes: list[onnx.NodeProto] = []
    initialisers: list[onnx.TensorProto] = []
    seen: dict[str, onnx.ValueInfoProto] = {}
    for index, part in enumerate(parts):
        apart = compose.add_prefix(part, f"part{index}/", rename_inputs=False, rename_outputs=False)
        nodes += apart.graph.node
        initialisers += apart.graph.initializer
        seen |= {value.name: value for value in (*apart.graph.input, *apart.graph.output)}
    graph = helper.make_graph(
        nodes, name, [seen[key] for key in inputs], [seen[key] for key in outputs], initialisers
    )
    whole = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(whole, full_check=True)
    return whole


def halve_weights(model: onnx.ModelProto, *, least: int = 1024) -> onnx.ModelProto:
    """Store large float32 weights as float16, each with a cast back that runtimes do once, at loading.

    The arithmetic stays float32, and the file is half as large. Weights beyond float16's range stay as they are.

    Args:
        model: The graph; it is not changed.
        least: Weights with fewer values than this stay as they are.
    """
    halved = onnx.ModelProto()
    halved.CopyFrom(model)
    casts = []
    for tensor in halved.graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(tensor)
        if values.size < least or np.abs(values).max() > np.finfo(np.float16).max:
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}/half"))
        casts.append(helper.make_node("Cast", [f"{name}/half"], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *halved.graph.node]
    del halved.graph.node[:]
    halved.graph.node.extend(nodes)
    return halved
