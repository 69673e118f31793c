"""Triton models of a few bytes that keep the stage contracts, so that tests know what comes out."""

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper, save

_VALUE = {"TYPE_UINT8": TensorProto.UINT8, "TYPE_FP32": TensorProto.FLOAT, "TYPE_INT64": TensorProto.INT64}


def _constant(name, value, kind):
    return numpy_helper.from_array(np.asarray(value, kind), name)


def write_model(repository, name, inputs, outputs, nodes, constants=(), *, versions=(1,), more=""):
    """Write one model; inputs and outputs are (name, Triton type, dims without the batch axis).

    Of several versions, version n gets the constant ``version`` = n.
    """
    folder = Path(repository) / name
    for version in versions:
        graph = helper.make_graph(
            [helper.make_node(*node[:3], **(node[3] if len(node) > 3 else {})) for node in nodes],
            name,
            [_tensor(*tensor) for tensor in inputs],
            [_tensor(*tensor) for tensor in outputs],
            [*constants, _constant("version", [version], np.float32)],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        (folder / str(version)).mkdir(parents=True, exist_ok=True)
        save(model, folder / str(version) / "model.onnx")
    (folder / "config.pbtxt").write_text(
        f'name: "{name}" backend: "onnxruntime" max_batch_size: 8\n'
        + "".join(_described("input", *tensor) for tensor in inputs)
        + "".join(_described("output", *tensor) for tensor in outputs)
        + "version_policy { all { } } dynamic_batching { max_queue_delay_microseconds: 2000 }\n"
        + "instance_group [ { kind: KIND_AUTO count: 1 } ]\n"
        + 'parameters { key: "intra_op_thread_count" value: { string_value: "1" } }\n'
        + more
    )


def _tensor(name, kind, dims):
    return helper.make_tensor_value_info(name, _VALUE[kind], ["batch", *(f"{name}_{i}" for i in range(len(dims)))])


def _described(kind, name, data_type, dims):
    return f'{kind} [ {{ name: "{name}" data_type: {data_type} dims: {list(dims)} }} ]\n'


def write_repository(repository):
    """The models of this suite.

    ``purify_tiny`` inverts and reports dark pixels as hair, ``segment_tiny`` gives (mean of the colours) / version
    in its versions 1 and 2, ``enhance_tiny`` repeats pixels, ``classify_tiny`` gives constants, ``picky`` fails
    for pixels of 200 and more, ``ensemble_tiny`` is purify_tiny before segment_tiny, ``bare`` has no tensors in
    its configuration and no batch axis.
    """
    image = ("IMAGE", "TYPE_UINT8", (-1, -1, 3))
    lesion = ("LESION", "TYPE_UINT8", (-1, -1))
    grey = [("Cast", ["IMAGE"], ["f"], {"to": 1}), ("ReduceMean", ["f"], ["grey"], {"axes": [3], "keepdims": 0})]
    write_model(
        repository,
        "purify_tiny",
        [image],
        [("PURIFIED", "TYPE_UINT8", (-1, -1, 3)), ("OCCLUSION", "TYPE_UINT8", (-1, -1))],
        [
            *grey,
            ("Sub", ["white", "f"], ["inverse"]),
            ("Cast", ["inverse"], ["PURIFIED"], {"to": 2}),
            ("Less", ["grey", "dark"], ["is_dark"]),
            ("Cast", ["is_dark"], ["hair"], {"to": 1}),
            ("Mul", ["hair", "white"], ["hair255"]),
            ("Cast", ["hair255"], ["OCCLUSION"], {"to": 2}),
        ],
        [_constant("white", [255], np.float32), _constant("dark", [20], np.float32)],
    )
    write_model(
        repository,
        "segment_tiny",
        [image],
        [lesion],
        [*grey, ("Div", ["grey", "version"], ["part"]), ("Cast", ["part"], ["LESION"], {"to": 2})],
        versions=(1, 2),
    )
    write_model(
        repository,
        "enhance_tiny",
        [image],
        [("ENHANCED", "TYPE_UINT8", (-1, -1, 3))],
        [
            ("Cast", ["IMAGE"], ["f"], {"to": 1}),
            ("Resize", ["f", "", "scales"], ["large"],
             {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}),
            ("Cast", ["large"], ["ENHANCED"], {"to": 2}),
        ],
        [_constant("scales", [1, 4, 4, 1], np.float32)],
    )  # fmt: skip
    write_model(
        repository,
        "classify_tiny",
        [image, lesion],
        [
            ("PROBABILITIES", "TYPE_FP32", (3,)),
            ("EMBEDDING", "TYPE_FP32", (4,)),
            ("SALIENCY", "TYPE_UINT8", (-1, -1)),
        ],
        [
            ("Cast", ["LESION"], ["f"], {"to": 1}),
            ("ReduceMean", ["f"], ["mean"], {"axes": [1, 2], "keepdims": 0}),
            ("Unsqueeze", ["mean", "last"], ["column"]),
            ("Mul", ["column", "nothing"], ["zeros"]),
            ("Add", ["zeros", "fixed"], ["PROBABILITIES"]),
            ("Mul", ["column", "ones"], ["EMBEDDING"]),
            ("Identity", ["LESION"], ["SALIENCY"]),
        ],
        [
            _constant("last", [1], np.int64),
            _constant("nothing", [0, 0, 0], np.float32),
            _constant("fixed", [0.5, 0.25, 0.25], np.float32),
            _constant("ones", [1, 1, 1, 1], np.float32),
        ],
        more='parameters { key: "labels" value: { string_value: "melanoma,nevus,seborrheic_keratosis" } }\n',
    )
    write_model(
        repository,
        "picky",
        [image],
        [lesion],
        [
            ("ReduceMax", ["IMAGE"], ["most"], {"keepdims": 0}),
            ("Cast", ["most"], ["place"], {"to": 7}),
            ("Gather", ["table", "place"], ["added"]),
            *grey,
            ("Add", ["grey", "added"], ["sum"]),
            ("Cast", ["sum"], ["LESION"], {"to": 2}),
        ],
        [_constant("table", np.zeros(200), np.float32)],
    )
    write_model(
        repository,
        "bare",
        [("VALUES", "TYPE_FP32", (-1,))],
        [("DOUBLED", "TYPE_FP32", (-1,))],
        [("Add", ["VALUES", "VALUES"], ["DOUBLED"])],
    )
    (repository / "bare" / "config.pbtxt").write_text('name: "bare" backend: "onnxruntime"\n')
    _write_ensemble(repository)


def _write_ensemble(repository):
    (repository / "ensemble_tiny" / "1").mkdir(parents=True)
    (repository / "ensemble_tiny" / "config.pbtxt").write_text("""\
name: "ensemble_tiny" platform: "ensemble" max_batch_size: 8
input [ { name: "IMAGE" data_type: TYPE_UINT8 dims: [ -1, -1, 3 ] } ]
output [ { name: "LESION" data_type: TYPE_UINT8 dims: [ -1, -1 ] } ]
ensemble_scheduling {
  step [ { model_name: "purify_tiny" model_version: 1
           input_map { key: "IMAGE" value: "IMAGE" } output_map { key: "PURIFIED" value: "clean" } } ]
  step [ { model_name: "segment_tiny" model_version: 1
           input_map { key: "IMAGE" value: "clean" } output_map { key: "LESION" value: "LESION" } } ]
}
""")
