"""The enhance stage's graph: IMAGE to ENHANCED, four times as large on each side, of any size."""

from __future__ import annotations

import onnx
import torch

from dermbatch.models.contracts import IMAGE, Contract, Tensor
from lesionnets.graphs.assembly import export_network, join, parse
from lesionnets.nets.enhance.enhancer import SCALE, Enhancer

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
    middle = export_network(network, [torch.rand(2, 3, 24, 32)], inputs=["PLANES"], outputs=["DETAILED"])
    return join("enhance", parse(_BEFORE), middle, parse(_AFTER), inputs=["IMAGE"], outputs=["ENHANCED"])
