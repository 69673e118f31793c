"""The graph of the segment stage: ``IMAGE`` uint8 [N, H, W, 3] -> ``LESION`` uint8 [N, H, W]."""

from __future__ import annotations

import onnx
from torch import Tensor, nn
from torch.nn import functional

from lesionnets.graphs import contract as contracts
from lesionnets.graphs.sampling import area_sample, export_graph, to_bytes
from lesionnets.nets.unet import UNet


class SegmentGraph(nn.Module):
    """A segmentation network with everything around it that serving needs.

    Args:
        net: float [N, 3, size, size], 0 to 1 -> logits [N, 1, size, size].
        size: Side of the square that the whole picture is squashed to, pixels.

    Shape:
        image uint8 [N, H, W, 3] -> lesion uint8 [N, H, W], probability x 255.
    """

    def __init__(self, net: nn.Module, size: int = 160) -> None:
        super().__init__()
        self.net = net
        self.size = size

    def forward(self, image: Tensor) -> Tensor:
        """See the class."""
        probability = self.net(area_sample(image, self.size, 4)).float().sigmoid()
        # Bytes before the enlargement: a quarter of the memory traffic where pictures are large.
        lesion = functional.interpolate(
            to_bytes(probability), size=image.shape[1:3], mode="bilinear", align_corners=False
        )
        return lesion[:, 0]


def contract(network: UNet) -> contracts.Contract:
    """What the graph takes and gives; a pixel belongs to the lesion from the probability ``threshold`` on."""
    return contracts.Contract(
        inputs=(contracts.IMAGE,),
        outputs=(contracts.Tensor("LESION", (-1, -1)),),
        parameters={"threshold": "0.5"},
    )


def build(network: UNet) -> onnx.ModelProto:
    """Wrap a segmentation network to the stage's contract."""
    return export_graph(SegmentGraph(network, network.size), {"IMAGE": (3,)}, ["LESION"])
