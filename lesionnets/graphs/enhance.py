"""The enhance stage's graph: IMAGE to ENHANCED, four times as large on each side, of any size."""

from __future__ import annotations

import onnx
import torch
from torch import nn

from dermbatch.models.contracts import IMAGE, Contract, Tensor
from lesionnets.graphs.assembly import export_network, join, parse
from lesionnets.nets.enhance.enhancer import SCALE, Enhancer
from lesionnets.nets.enhance.plain import PlainEnhancer

TILE = 160
"""Side of the tiles that large crops are cut into, in source pixels: what a core does in some 40 ms."""

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
after (float[N, C, H, W] LEVELS) => (uint8[N, H4, W4, 3] ENHANCED)
<float zero = {0.0}, float most = {255.0}, int64[5] apart = {0, 0, 0, 4, 12}, int64[4] larger = {1, 4, 4, 1},
 int64[1] colours = {3}>
{
  clipped = Clip (LEVELS, zero, most)
  bytes = Cast <to = 2> (clipped)
  pixels = Transpose <perm = [0, 2, 3, 1]> (bytes)
  rows = Reshape (pixels, apart)
  lines = Transpose <perm = [0, 1, 3, 2, 4]> (rows)
  size = Shape <start = 0, end = 3> (pixels)
  size_and_colours = Concat <axis = 0> (size, colours)
  enlarged = Mul (size_and_colours, larger)
  ENHANCED = Reshape (lines, enlarged)
}
"""
# Sub-pixels are spread out as bytes, a quarter of what floats take: with a small network this decides.


class _SubPixels(nn.Module):
    """A network's sub-pixels as channels."""

    def __init__(self, network: PlainEnhancer) -> None:
        super().__init__()
        self.network = network.in_levels()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See :meth:`PlainEnhancer.sub_pixels`."""
        return self.network.sub_pixels(x)


def contract(network: Enhancer) -> Contract:
    """What the graph takes and gives; ``overlap`` is how far a tile must reach into its neighbour, in pixels.

    Twice the network's radius, so that tiles are seamless whether both or only one of two neighbours is cut back.
    """
    parameters = {"scale": str(SCALE), "tile": str(TILE), "overlap": str(2 * network.radius)}
    return Contract((IMAGE,), (Tensor("ENHANCED", (-1, -1, 3)),), parameters)


def build(network: Enhancer) -> onnx.ModelProto:
    """Wrap a super-resolution network to the stage's contract.

    IMAGE uint8 [N, H, W, 3] to ENHANCED uint8 [N, 4 H, 4 W, 3].
    """
    if isinstance(network, PlainEnhancer):
        middle = export_network(
            _SubPixels(network), [torch.rand(2, 3, 24, 32)], inputs=["PLANES"], outputs=["LEVELS"]
        )
        after = parse(_AFTER_SUB_PIXELS)
        return join("enhance", parse(_BEFORE), middle, after, inputs=["IMAGE"], outputs=["ENHANCED"])
    middle = export_network(network, [torch.rand(2, 3, 24, 32)], inputs=["PLANES"], outputs=["DETAILED"])
    return join("enhance", parse(_BEFORE), middle, parse(_AFTER), inputs=["IMAGE"], outputs=["ENHANCED"])
