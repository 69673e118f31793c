"""The graph of the enhance stage: IMAGE to ENHANCED, four times or twice as large on each side, for any size."""

from __future__ import annotations

import onnx
import torch
from torch import nn

from dermbatch.models.contracts import IMAGE, Contract, Tensor
from lesionnets.graphs.assembly import export_network, join, parse
from lesionnets.nets.enhance.doubler import Doubler
from lesionnets.nets.enhance.enhancer import SCALE, Enhancer, SubPixelEnhancer

TILE = 640
"""Side of the tiles into which large crops are cut, in pixels of what comes out."""

_BEFORE = """
<ir_version: $ir_version, opset_import: ["" : $opset]>
before (uint8[N, H, W, 3] IMAGE) => (float[N, 3, H, W] PLANES)
<float scale = {255.0}>
{
  planes = Transpose <perm = [0, 3, 1, 2]> (IMAGE)
  values = Cast <to = 1> (planes)
  PLANES = Div (values, scale)
}
"""

_AFTER = """
<ir_version: $ir_version, opset_import: ["" : $opset]>
after (float[N, 3, H4, W4] DETAILED) => (uint8[N, H4, W4, 3] ENHANCED)
<float zero = {0.0}, float one = {1.0}, float scale = {255.0}>
{
  clipped = Clip (DETAILED, zero, one)
  scaled = Mul (clipped, scale)
  rounded = Round (scaled)
  bytes = Cast <to = 2> (rounded)
  ENHANCED = Transpose <perm = [0, 2, 3, 1]> (bytes)
}
"""

_AFTER_SUB_PIXELS = """
<ir_version: $ir_version, opset_import: ["" : $opset]>
after (float[N, C, H, W] SUB_PIXELS) => (uint8[N, H4, W4, 3] $enlarged)
<float step = {0.003921568627451}, uint8 zero = {0}, int64[48] by_place = {$by_place}, int64[1] larger = {4},
 int64[1] values = {12}, int64[1] rest = {-1}, int64[1] colours = {3}>
{
  bytes = QuantizeLinear (SUB_PIXELS, step, zero)
  sorted = Gather <axis = 1> (bytes, by_place)
  count = Shape <start = 0, end = 1> (bytes)
  height = Shape <start = 2, end = 3> (bytes)
  apart = Concat <axis = 0> (count, larger, values, rest)
  planes = Reshape (sorted, apart)
  pixels = Transpose <perm = [0, 1, 3, 2]> (planes)
  in_rows = Concat <axis = 0> (count, larger, height, rest)
  rows = Reshape (pixels, in_rows)
  lines = Transpose <perm = [0, 2, 1, 3]> (rows)
  tall = Mul (height, larger)
  size = Concat <axis = 0> (count, tall, rest, colours)
  $enlarged = Reshape (lines, size)
}
"""
# With a small network this decides, so: rounding and cutting off in one step, then bytes, a quarter of what floats
# take, sorted by planes, within each of the four rows of a pixel's values, and by whole lines.
_BY_PLACE = [colour * SCALE**2 + place for place in range(SCALE**2) for colour in range(3)]


# Of an odd side the last row or column is repeated; what becomes of it is cut off in the end.
_BEFORE_DOUBLER = """
<ir_version: $ir_version, opset_import: ["" : $opset]>
before (uint8[N, H, W, 3] IMAGE) => (float[N, 12, H2, W2] FRAMED)
<int64[1] two = {2}, int64[2] sides = {1, 2}, float scale = {255.0}, int64[12] by_colour = {$by_colour}>
{
  size = Shape <start = 1, end = 3> (IMAGE)
  odd = Mod (size, two)
  behind = Add (odd, two)
  before = Sub (behind, odd)
  frame = Concat <axis = 0> (before, behind)
  framed = Pad <mode = "edge"> (IMAGE, frame, , sides)
  planes = Transpose <perm = [0, 3, 1, 2]> (framed)
  values = Cast <to = 1> (planes)
  scaled = Div (values, scale)
  places = SpaceToDepth <blocksize = 2> (scaled)
  FRAMED = Gather <axis = 1> (places, by_colour)
}
"""
# SpaceToDepth gives colours within places; reordering them costs less than to spread bytes out in one step.
_BY_COLOUR = [3 * place + colour for colour in range(3) for place in range(4)]

_AFTER_DOUBLER = """
<ir_version: $ir_version, opset_import: ["" : $opset]>
cut (uint8[N, H, W, 3] IMAGE, uint8[N, H2, W2, 3] EVEN) => (uint8[N, H2, W2, 3] ENHANCED)
<int64[1] two = {2}, int64[2] origin = {0, 0}, int64[2] sides = {1, 2}>
{
  size = Shape <start = 1, end = 3> (IMAGE)
  doubled = Mul (size, two)
  ENHANCED = Slice (EVEN, origin, doubled, sides)
}
"""


class _SubPixels(nn.Module):
    """A network that ends with its sub-pixels as channels."""

    def __init__(self, network: SubPixelEnhancer | Doubler) -> None:
        super().__init__()
        self.network = network.merged() if isinstance(network, SubPixelEnhancer) else network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See :class:`SubPixelEnhancer` and :class:`Doubler`."""
        return self.network.sub_pixels(x)


def _after_sub_pixels(enlarged: str) -> onnx.ModelProto:
    """From ``SUB_PIXELS`` float [N, 48, H, W] to uint8 [N, 4 H, 4 W, 3], by the name given."""
    return parse(_AFTER_SUB_PIXELS, by_place=", ".join(map(str, _BY_PLACE)), enlarged=enlarged)


def contract(network: Enhancer) -> Contract:
    """Inputs and outputs of the graph; ``overlap`` is how far a tile must reach into its neighbour, in pixels.

    It is twice the network's radius, so tiles are seamless whether both neighbours or only one of them is cut
    back.
    """
    scale = network.scale
    parameters = {"scale": str(scale), "tile": str(TILE // scale), "overlap": str(2 * network.radius)}
    if network.grid > 1:
        parameters["grid"] = str(network.grid)
    return Contract((IMAGE,), (Tensor("ENHANCED", (-1, -1, 3)),), parameters)


def build(network: Enhancer) -> onnx.ModelProto:
    """Wrap a super-resolution network so that it keeps the stage's contract.

    IMAGE uint8 [N, H, W, 3] to ENHANCED uint8 [N, 4 H, 4 W, 3], or [N, 2 H, 2 W, 3] of a doubler.
    """
    if isinstance(network, Doubler):
        middle = export_network(
            _SubPixels(network), [torch.rand(2, 12, 14, 18)], inputs=["FRAMED"], outputs=["SUB_PIXELS"]
        )
        before = parse(_BEFORE_DOUBLER, by_colour=", ".join(map(str, _BY_COLOUR)))
        parts = before, middle, _after_sub_pixels("EVEN"), parse(_AFTER_DOUBLER)
        return join("enhance", *parts, inputs=["IMAGE"], outputs=["ENHANCED"])
    if isinstance(network, SubPixelEnhancer):
        middle = export_network(
            _SubPixels(network), [torch.rand(2, 3, 24, 32)], inputs=["PLANES"], outputs=["SUB_PIXELS"]
        )
        after = _after_sub_pixels("ENHANCED")
        return join("enhance", parse(_BEFORE), middle, after, inputs=["IMAGE"], outputs=["ENHANCED"])
    middle = export_network(network, [torch.rand(2, 3, 24, 32)], inputs=["PLANES"], outputs=["DETAILED"])
    return join("enhance", parse(_BEFORE), middle, parse(_AFTER), inputs=["IMAGE"], outputs=["ENHANCED"])
