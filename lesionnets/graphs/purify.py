"""The graph of the purify stage: IMAGE to PURIFIED and OCCLUSION at the image's own size.

The network sees the image at 512 pixels on its long side, reduced, or enlarged by two at most. Its clean picture
and its occlusion map are resized to the image's size. A pixel is replaced where the map reaches the threshold
*and* the image really differs from the clean picture, because at full resolution a hair is thinner than its trace
in the small map. All other pixels pass through unchanged.

At the image's own size, bytes are only passed through operations that ONNX Runtime has long had for uint8 on all
devices. The image is resized in float, which takes half as long as in bytes, but one plane at a time: as one
tensor, 24 megapixels would take 288 MB. ``Gather`` cuts the planes out, because the runtime would move a ``Split``
before the transposition, where it is slow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper

from dermbatch.images.fitting import DIFFERENCE
from dermbatch.models.contracts import IMAGE, Contract, Tensor
from lesionnets.graphs.assembly import export_network, join, parse
from lesionnets.nets.purify.folded import FOLD, FoldedUNet

LONG_SIDE = 512
ENLARGED = 2.0
"""Most by which a smaller picture is enlarged, because thin hair in a small picture is hard to see."""
THRESHOLD = 0.15
"""Occlusion probability from which a pixel may be replaced."""

_BEFORE = """
<ir_version: $ir_version, opset_import: ["" : $opset]>
before (uint8[N, H, W, 3] IMAGE) => (float[N, 3, h, w] SMALL)
<float one = {1.0}, float half = {0.5}, float scale = {255.0}, float stride = {$stride},
 float long_side = {$long_side}, float most = {$most},
 int64[1] channel_axis = {1}, int64[1] first = {0}, int64[1] second = {1}, int64[1] third = {2}>
{
  batch = Shape <start = 0, end = 1> (IMAGE)
  size = Shape <start = 1, end = 3> (IMAGE)
  sides = Cast <to = 1> (size)
  longest = ReduceMax <keepdims = 0> (sides)
  wanted = Div (long_side, longest)
  factor = Min (wanted, most)
  scaled = Mul (sides, factor)
  strides = Div (scaled, stride)
  rounded = Round (strides)
  at_least_one = Max (rounded, one)
  small_sides = Mul (at_least_one, stride)
  small_size = Cast <to = 7> (small_sides)
  small_shape = Concat <axis = 0> (batch, channel_axis, small_size)
  image = Transpose <perm = [0, 3, 1, 2]> (IMAGE)
  red = Gather <axis = 1> (image, first)
  green = Gather <axis = 1> (image, second)
  blue = Gather <axis = 1> (image, third)
  red_levels = Cast <to = 1> (red)
  small_red = Resize <mode = "linear", antialias = 1> (red_levels, , , small_shape)
  green_levels = Cast <to = 1> (green)
  small_green = Resize <mode = "linear", antialias = 1> (green_levels, , , small_shape)
  blue_levels = Cast <to = 1> (blue)
  small_blue = Resize <mode = "linear", antialias = 1> (blue_levels, , , small_shape)
  small = Concat <axis = 1> (small_red, small_green, small_blue)
  raised = Add (small, half)
  whole = Floor (raised)
  SMALL = Div (whole, scale)
}
"""

_AFTER = """
<ir_version: $ir_version, opset_import: ["" : $opset]>
after (uint8[N, H, W, 3] IMAGE, float[N, 1, h, w] LOGITS, float[N, 3, h, w] CLEAN)
  => (uint8[N, H, W, 3] PURIFIED, uint8[N, H, W] OCCLUSION)
<float zero = {0.0}, float one = {1.0}, float scale = {255.0}, float threshold = {$threshold},
 uint8 below = {$below},
 float difference = {$difference}, int64[1] channel_axis = {1}, int64[1] second = {1}>
{
  image = Transpose <perm = [0, 3, 1, 2]> (IMAGE)
  batch = Shape <start = 0, end = 1> (image)
  size = Shape <start = 2, end = 4> (image)
  plane_shape = Concat <axis = 0> (batch, channel_axis, size)

  clipped = Clip (CLEAN, zero, one)
  scaled = Mul (clipped, scale)
  rounded = Round (scaled)
  small_red, small_green, small_blue = Split <axis = 1, num_outputs = 3> (rounded)
  red_levels = Resize <mode = "linear"> (small_red, , , plane_shape)
  red = Cast <to = 2> (red_levels)
  blue_levels = Resize <mode = "linear"> (small_blue, , , plane_shape)
  blue = Cast <to = 2> (blue_levels)
  green_levels = Resize <mode = "linear"> (small_green, , , plane_shape)
  green = Cast <to = 2> (green_levels)
  fill = Concat <axis = 1> (red, green, blue)

  probability = Sigmoid (LOGITS)
  of_255 = Mul (probability, scale)
  map = Resize <mode = "linear"> (of_255, , , plane_shape)
  likely = GreaterOrEqual (map, threshold)
  map_bytes = Cast <to = 2> (map)

  image_green = Gather <axis = 1> (image, second)
  image_level = Cast <to = 1> (image_green)
  fill_level = Cast <to = 1> (green)
  change = Sub (image_level, fill_level)
  distance = Abs (change)
  differs = GreaterOrEqual (distance, difference)
  occluded = And (likely, differs)

  composite = Where (occluded, fill, image)
  PURIFIED = Transpose <perm = [0, 2, 3, 1]> (composite)
  capped = Where (likely, below, map_bytes)
  found = Where (occluded, map_bytes, capped)
  OCCLUSION = Squeeze (found, channel_axis)
}
"""


def contract(network: FoldedUNet) -> Contract:
    """Inputs and outputs of the graph."""
    del network
    outputs = (Tensor("PURIFIED", (-1, -1, 3)), Tensor("OCCLUSION", (-1, -1)))
    return Contract((IMAGE,), outputs, {"threshold": str(THRESHOLD)})


def build(network: FoldedUNet) -> onnx.ModelProto:
    """Wrap a purifier so that it keeps the stage's contract.

    IMAGE uint8 [N, H, W, 3] to PURIFIED uint8 [N, H, W, 3] and OCCLUSION uint8 [N, H, W] (probability x 255). A
    pixel is replaced where OCCLUSION is at least ``THRESHOLD`` x 255, and nowhere else: where the image does not
    differ from the clean picture, OCCLUSION is lowered to just below that.

    Args:
        network: The trained network.
    """
    limit = math.ceil(THRESHOLD * 255)
    before = parse(_BEFORE, stride=float(network.stride), long_side=float(LONG_SIDE), most=ENLARGED)
    after = parse(_AFTER, threshold=float(limit), below=limit - 1, difference=float(DIFFERENCE))
    # Large enough that no level of the deepest network is a single pixel, which the exporter takes for a constant.
    rows, columns = (-(-side // network.stride) * network.stride for side in (288, 544))
    middle = export_network(
        network,
        [torch.rand(2, 3, rows, columns)],
        inputs=["SMALL"],
        outputs=["LOGITS", "CLEAN"],
        multiple=network.stride,
    )
    _fold_by_stride(middle)
    return join("purify", before, middle, after, inputs=["IMAGE"], outputs=["PURIFIED", "OCCLUSION"])


def _fold_by_stride(middle: onnx.ModelProto) -> None:
    """Have the first convolution fold the image itself: 6 x 6 with a stride of two, with the same weights.

    Folding the image first would copy every value once more, which took as long as the convolution. The graph
    holds the weights as they were trained and rearranges them; runtimes do that once, at loading.
    """
    graph = middle.graph
    made = {name: node for node in graph.node for name in node.output}
    (convolution,) = (node for node in graph.node if "stem.0.weight" in node.input)
    (weight,) = (tensor for tensor in graph.initializer if tensor.name == "stem.0.weight")
    outputs, folded, *kernel = weight.dims
    colours = folded // FOLD**2
    source = convolution.input[0]
    while made[source].op_type in {"Reshape", "Transpose", "SpaceToDepth"}:
        source = made[source].input[0]
    shapes = {
        "stem/apart": [outputs, colours, FOLD, FOLD, *kernel],
        "stem/together": [outputs, colours, *(FOLD * side for side in kernel)],
    }
    graph.initializer.extend(numpy_helper.from_array(np.array(shape), name) for name, shape in shapes.items())
    rearranged = [
        helper.make_node("Reshape", [weight.name, "stem/apart"], ["stem/split"]),
        helper.make_node("Transpose", ["stem/split"], ["stem/turned"], perm=[0, 1, 4, 2, 5, 3]),
        helper.make_node("Reshape", ["stem/turned", "stem/together"], ["stem/weight"]),
    ]
    bigger = helper.make_node(
        "Conv",
        [source, "stem/weight", *convolution.input[2:]],
        convolution.output,
        kernel_shape=[FOLD * side for side in kernel],
        strides=[FOLD, FOLD],
        pads=[FOLD * (side // 2) for side in kernel] * 2,
    )
    nodes = [*rearranged, *(bigger if node is convolution else node for node in graph.node)]
    del graph.node[:]
    graph.node.extend(_needed(nodes, [value.name for value in graph.output]))


def _needed(nodes: Sequence[onnx.NodeProto], outputs: Sequence[str]) -> list[onnx.NodeProto]:
    """The nodes on which the outputs depend, in their order."""
    wanted, kept = set(outputs), []
    for node in reversed(nodes):
        if wanted & set(node.output):
            wanted |= set(node.input)
            kept.append(node)
    return kept[::-1]
