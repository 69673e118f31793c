"""The graph of the segment stage: ``IMAGE`` uint8 [N, H, W, 3] -> ``LESION`` uint8 [N, H, W].

A network that finds borders also gives ``BORDER`` uint8 [N, H, W].
"""

from __future__ import annotations

import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional

from dermbatch.models import contracts
from lesionnets.graphs.sampling import MIRRORS, area_sample, export_graph, to_bytes
from lesionnets.nets.segment.segmenter import Segmenter


class SegmentGraph(nn.Module):
    """A segmentation network with all the processing around it that serving needs.

    The whole picture is squashed to the square that the network was trained on.

    Args:
        net: The network.
        flips: Take the mean over the picture and its three mirror images: four times the cost.

    Shape:
        image uint8 [N, H, W, 3] -> lesion uint8 [N, H, W], probability x 255; and the border in the same form, if
        the network finds borders.
    """

    def __init__(self, net: Segmenter, *, flips: bool = False) -> None:
        super().__init__()
        self.net = net
        self.mirrors = MIRRORS if flips else MIRRORS[:1]

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """See the class."""
        picture = area_sample(image, self.net.size, self.net.samples)
        views = [self._logits(picture.flip(axes)).float().flip(axes) for axes in self.mirrors]
        probability = (torch.stack(views) / self.net.temperature).sigmoid().mean(dim=0)
        # Bytes before the enlargement: a quarter of the memory traffic where pictures are large.
        maps = functional.interpolate(
            to_bytes(probability), size=image.shape[1:3], mode="bilinear", align_corners=False
        )
        return (maps[:, 0], maps[:, 1]) if self.net.bordered else maps[:, 0]

    def _logits(self, picture: Tensor) -> Tensor:
        """One map, or two if the network finds borders: [N, 1 or 2, S, S]."""
        return torch.cat(self.net.maps(picture), dim=1) if self.net.bordered else self.net.logits(picture)


def contract(network: Segmenter) -> contracts.Contract:
    """Inputs and outputs of the graph; a pixel is lesion if its probability is at least ``threshold``."""
    return contracts.Contract(
        inputs=(contracts.IMAGE,),
        outputs=(contracts.LESION, contracts.BORDER) if network.bordered else (contracts.LESION,),
        parameters={"threshold": "0.5"} | ({"long_side": str(network.long_side)} if network.long_side else {}),
    )


def build(network: Segmenter, *, flips: bool = False) -> onnx.ModelProto:
    """Wrap a segmentation network so that it keeps the stage's contract; ``flips`` as in :class:`SegmentGraph`."""
    outputs = [tensor.name for tensor in contract(network).outputs]
    return export_graph(SegmentGraph(network, flips=flips), {"IMAGE": (3,)}, outputs)
