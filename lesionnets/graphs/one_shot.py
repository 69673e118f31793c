"""The two graphs of one-shot segmentation, so that a support is encoded once.

``oneshot_support``: ``IMAGE`` uint8 [N, H, W, 3], ``MASK`` uint8 [N, H, W] -> ``PROTOTYPES`` float32 [N, P];
``segment_oneshot``: ``IMAGE`` uint8 [N, H, W, 3], ``PROTOTYPES`` float32 [N, P] -> ``LESION`` uint8 [N, H, W].
"""

from __future__ import annotations

import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional

from dermbatch.models import contracts
from dermbatch.models.contracts import SUPPORT_MODEL
from lesionnets.graphs.assembly import to_onnx
from lesionnets.graphs.sampling import area_sample, export_graph, to_bytes
from lesionnets.nets.segment.one_shot import OneShot

SUPPORT = "oneshot_support"


class SupportGraph(nn.Module):
    """Makes prototypes of a support image and its mask; both are squashed to the square that the network knows.

    Shape:
        image uint8 [N, H, W, 3], mask uint8 [N, H, W], non-zero in the lesion -> float [N, P].
    """

    def __init__(self, net: OneShot) -> None:
        super().__init__()
        self.net = net

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        """See the class."""
        picture = area_sample(image, self.net.size, self.net.samples)
        share = 255 * area_sample((mask > 0).to(torch.uint8)[..., None], self.net.size, self.net.samples)
        return self.net.prototypes(self.net.features(picture), share)


class QueryGraph(nn.Module):
    """Finds the lesion of an image by a support's prototypes.

    Shape:
        image uint8 [N, H, W, 3], prototypes float [N, P] -> lesion uint8 [N, H, W], probability x 255.
    """

    def __init__(self, net: OneShot) -> None:
        super().__init__()
        self.net = net

    def forward(self, image: Tensor, prototypes: Tensor) -> Tensor:
        """See the class."""
        picture = area_sample(image, self.net.size, self.net.samples)
        probability = (self.net(picture, prototypes) / self.net.temperature).sigmoid()
        lesion = functional.interpolate(
            to_bytes(probability), size=image.shape[1:3], mode="bilinear", align_corners=False
        )
        return lesion[:, 0]


def contract(network: OneShot) -> contracts.Contract:
    """Inputs and outputs of ``segment_oneshot``."""
    unseen = {"unseen": network.unseen} if network.unseen else {}
    return contracts.Contract(
        inputs=(contracts.IMAGE, _prototypes(network)),
        outputs=(contracts.LESION,),
        parameters={"threshold": "0.5", "long_side": str(network.long_side), SUPPORT_MODEL: SUPPORT, **unseen},
    )


def support_contract(network: OneShot) -> contracts.Contract:
    """Inputs and outputs of ``oneshot_support``."""
    return contracts.Contract(
        inputs=(contracts.IMAGE, contracts.MASK),
        outputs=(_prototypes(network),),
        parameters={"long_side": str(network.long_side)},
    )


def _prototypes(network: OneShot) -> contracts.Tensor:
    return contracts.Tensor(contracts.PROTOTYPES.name, (network.length,), "float32")


def build(network: OneShot) -> onnx.ModelProto:
    """The graph of ``segment_oneshot``."""
    example = [torch.zeros(2, 97, 131, 3, dtype=torch.uint8), torch.zeros(2, network.length)]
    return to_onnx(
        QueryGraph(network),
        example,
        inputs=["IMAGE", "PROTOTYPES"],
        outputs=["LESION"],
        free=[{0: "N", 1: "H", 2: "W"}, {0: "N"}],
    )


def build_support(network: OneShot) -> onnx.ModelProto:
    """The graph of ``oneshot_support``."""
    return export_graph(SupportGraph(network), {"IMAGE": (3,), "MASK": ()}, ["PROTOTYPES"])
