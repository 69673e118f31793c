"""The purify stage's graph: IMAGE to PURIFIED and OCCLUSION at the image's own size.

The network sees the image at 512 pixels on its long side, reduced, or enlarged by two at most. Its clean picture
and its occlusion map are brought back to the image's size, and a pixel is replaced where the map is above the
threshold *and* the image really differs from the clean picture there: at full resolution a hair is thinner than
its trace in the small map. All other pixels pass through as they are, bit by bit.

Only operations that ONNX Runtime has long had for uint8 on all devices are used at the image's own size, and few
of them in float: a 24-megapixel image would take 288 MB a tensor.
"""

from __future__ import annotations

import math

import onnx
import torch

from dermbatch.models.contracts import IMAGE, Contract, Tensor
from lesionnets.graphs.assembly import export_network, join, parse
from lesionnets.nets.purify.purifier import FoldedUNet

LONG_SIDE = 512
ENLARGED = 2.0
"""Most by which a smaller picture is enlarged to that: thin hair of a small picture is hard to see."""
THRESHOLD = 0.15
"""Occlusion probability from which a pixel may be replaced."""
DIFFERENCE = 6
"""Least difference of green to the clean picture, of 255, at which a pixel is replaced."""

_BEFORE = """
<ir_version: $ir_version, opset_import: ["" : $opset]>
before (uint8[N, H, W, 3] IMAGE) => (float[N, 3, h, w] SMALL)
<float one = {1.0}, float scale = {255.0}, float stride = {$stride}, float long_side = {$long_side},
 float most = {$most},
 int64[1] three = {3}>
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
  small_shape = Concat <axis = 0> (batch, small_size, three)
  reduced = Resize <mode = "linear", antialias = 1> (IMAGE, , , small_shape)
  planes = Transpose <perm = [0, 3, 1, 2]> (reduced)
  values = Cast <to = 1> (planes)
  SMALL = Div (values, scale)
}
"""

_AFTER = """
<ir_version: $ir_version, opset_import: ["" : $opset]>
after (uint8[N, H, W, 3] IMAGE, float[N, 1, h, w] LOGITS, float[N, 3, h, w] CLEAN)
  => (uint8[N, H, W, 3] PURIFIED, uint8[N, H, W] OCCLUSION)
<float zero = {0.0}, float one = {1.0}, float scale = {255.0}, float threshold = {$threshold},
 uint8 below = {$below},
 float difference = {$difference}, int64[1] green = {1}, int64[1] after_green = {2}, int64[1] channel_axis = {1}>
{
  image = Transpose <perm = [0, 3, 1, 2]> (IMAGE)
  shape = Shape (image)
  batch = Shape <start = 0, end = 1> (image)
  size = Shape <start = 2, end = 4> (image)
  map_shape = Concat <axis = 0> (batch, channel_axis, size)

  clipped = Clip (CLEAN, zero, one)
  scaled = Mul (clipped, scale)
  rounded = Round (scaled)
  small_fill = Cast <to = 2> (rounded)
  fill = Resize <mode = "linear"> (small_fill, , , shape)

  probability = Sigmoid (LOGITS)
  of_255 = Mul (probability, scale)
  map = Resize <mode = "linear"> (of_255, , , map_shape)
  likely = GreaterOrEqual (map, threshold)
  map_bytes = Cast <to = 2> (map)

  image_green = Slice (image, green, after_green, channel_axis)
  image_level = Cast <to = 1> (image_green)
  fill_green = Slice (fill, green, after_green, channel_axis)
  fill_level = Cast <to = 1> (fill_green)
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
    """What the graph takes and gives."""
    del network
    outputs = (Tensor("PURIFIED", (-1, -1, 3)), Tensor("OCCLUSION", (-1, -1)))
    return Contract((IMAGE,), outputs, {"threshold": str(THRESHOLD)})


def build(network: FoldedUNet) -> onnx.ModelProto:
    """Wrap a purifier to the stage's contract.

    IMAGE uint8 [N, H, W, 3] to PURIFIED uint8 [N, H, W, 3] and OCCLUSION uint8 [N, H, W] (probability x 255). A
    pixel is replaced where OCCLUSION is at least ``THRESHOLD`` x 255, and nowhere else.

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
    return join("purify", before, middle, after, inputs=["IMAGE"], outputs=["PURIFIED", "OCCLUSION"])
