"""Shipped graphs as `lesionnets export` writes them now, without their checkpoints: how columns are gathered.

Until then columns were gathered where a pixel's bytes lay: three were copied at a time, which took as long as a
fifth of the classifier. Now pictures are turned first (:func:`lesionnets.graphs.sampling.area_sample`), and whole
columns are copied. Weights and answers are the same, bit by bit; only a file's digest changes.

    python -m benchmarks.gathered model_repository/classify_lite model_repository/segment_lite ...
"""

from __future__ import annotations

import argparse
from pathlib import Path

import onnx
from onnx import helper

from lesionnets.export import file_digest


def turned(model: onnx.ModelProto) -> int:
    """Change a graph in place; how often it gathered columns in the former way."""
    graph = model.graph
    makers = {output: node for node in graph.node for output in node.output}
    nodes, count = [], 0
    for node in graph.node:
        if _gathers(node, axis=2) and _gathers(makers.get(node.input[0]), axis=1):
            apart = f"{node.output[0]}/apart"
            nodes.append(
                helper.make_node("Transpose", [node.input[0]], [apart], f"{node.name}/apart", perm=[0, 2, 3, 1])
            )
            node.input[0] = apart
            node.attribute[0].i = 1
            (after,) = (one for one in graph.node if node.output[0] in one.input)
            after.attribute[0].CopyFrom(helper.make_attribute("perm", [0, 2, 3, 1]))
            count += 1
        nodes.append(node)
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)
    # What the exporter noted of shapes is of the former order.
    del graph.value_info[:]
    return count


def _gathers(node: onnx.NodeProto | None, axis: int) -> bool:
    return node is not None and node.op_type == "Gather" and [one.i for one in node.attribute] == [axis]


def main() -> None:
    """Rewrite the versions of models, and the digests in their configuration."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL", help="folder in a model repository")
    for path in (path for one in parser.parse_args().models for path in sorted(one.glob("[0-9]*/model.onnx"))):
        model, former = onnx.load(path), file_digest(path)
        count = turned(model)
        onnx.checker.check_model(model, full_check=True)
        if count:
            path.write_bytes(model.SerializeToString(deterministic=True))
            config = path.parent.parent / "config.pbtxt"
            config.write_text(config.read_text().replace(former, file_digest(path)))
        print(f"{path.parent.parent.name}={count}")


if __name__ == "__main__":
    main()
