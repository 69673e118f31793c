"""The graphs of MB-DCNN: the steps of the ensemble that segments, and mask-CN as a model of the classify stage.

::

    segment_coarse_sn     IMAGE -> LESION                        the graph of the segment stage
    mb_dcnn_mask_cn       IMAGE, COARSE -> PROBABILITIES, WHERE
    mb_dcnn_enhanced_sn   IMAGE, WHERE -> LESION

Each step takes the picture as bytes and squashes it itself, so that a picture is sent to the server only once.
"""

from __future__ import annotations

import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional

from dermbatch.models import contracts
from lesionnets.data.sources.isic import DIAGNOSES
from lesionnets.graphs import segment
from lesionnets.graphs.assembly import to_onnx
from lesionnets.graphs.classify import SALIENCY
from lesionnets.graphs.sampling import area_sample, export_graph, to_bytes
from lesionnets.nets.mutual.mask_guided import MaskGuided, localisation_map, of_likeliest
from lesionnets.nets.mutual.mb_dcnn import STRIDE
from lesionnets.nets.mutual.mutual import MutualSN

_SAMPLES = 4
"""Points along each side of a pixel's area, as in the graph of the segment stage."""

_MIRRORS: tuple[tuple[int, ...], ...] = ((), (1,), (2,), (1, 2))


class LocaliseGraph(nn.Module):
    """mask-CN as a step of the ensemble.

    Shape:
        image uint8 [N, H, W, 3], coarse uint8 [N, H, W] (probability x 255)
        -> probabilities float [N, classes]; where uint8 [N, h, w]: the localisation map x 255.
    """

    def __init__(self, net: MaskGuided) -> None:
        super().__init__()
        self.net = net

    def forward(self, image: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        logits, maps = self.net(*_inputs(self.net, image, coarse))
        probabilities = (logits.float() / self.net.temperature).softmax(dim=1)
        return probabilities, to_bytes(localisation_map(logits, maps))[:, 0]


class EnhanceGraph(nn.Module):
    """enhanced-SN as a step of the ensemble.

    Shape:
        image uint8 [N, H, W, 3], where uint8 [N, h, w] -> lesion uint8 [N, H, W], probability x 255.
    """

    def __init__(self, net: MutualSN) -> None:
        super().__init__()
        self.net, self.size = net.enhanced, net.size
        self.register_buffer("temperature", net.temperature)

    def forward(self, image: Tensor, where: Tensor) -> Tensor:
        """See the class."""
        picture = area_sample(image, self.size, _SAMPLES)
        logits = self.net(picture, where[:, None].float() / 255).float()
        probability = to_bytes((logits / self.temperature).sigmoid())
        return functional.interpolate(probability, size=image.shape[1:3], mode="bilinear", align_corners=False)[
            :, 0
        ]


class SegmentGraph(nn.Module):
    """The three steps in a row, byte for byte as the ensemble runs them; for evaluating a checkpoint.

    Args:
        net: The three networks.
        flips: Take the mean over the picture and its three mirror images: four times the cost.

    Shape:
        image uint8 [N, H, W, 3] -> lesion uint8 [N, H, W], probability x 255.
    """

    def __init__(self, net: MutualSN, *, flips: bool = False) -> None:
        super().__init__()
        self.coarse = segment.SegmentGraph(net.coarse)
        self.localise = LocaliseGraph(net.guide)
        self.enhance = EnhanceGraph(net)
        self.mirrors = _MIRRORS if flips else _MIRRORS[:1]

    def forward(self, image: Tensor) -> Tensor:
        """See the class."""
        views = [self._lesion(image.flip(axes)).flip(axes).float() for axes in self.mirrors]
        return torch.stack(views).mean(dim=0).round().to(torch.uint8)

    def _lesion(self, image: Tensor) -> Tensor:
        _, where = self.localise(image, self.coarse(image))
        lesion: Tensor = self.enhance(image, where)
        return lesion


class ClassifyGraph(nn.Module):
    """mask-CN as a model of the classify stage: it sees whole pictures and whatever lesion mask there is.

    Args:
        net: The network.
        flips: Take the mean of the probabilities over the picture and its three mirror images: four times the
            cost. Embedding and saliency stay those of the picture itself.

    Shape:
        image uint8 [N, H, W, 3], lesion uint8 [N, H, W] (probability x 255)
        -> probabilities float [N, classes]; embedding float [N, features], of length 1; saliency uint8
        [N, 64, 64]: what speaks for the most probable class more than for the others, highest 255.
    """

    def __init__(self, net: MaskGuided, *, flips: bool = False) -> None:
        super().__init__()
        self.net = net
        self.mirrors = _MIRRORS if flips else _MIRRORS[:1]

    def forward(self, image: Tensor, lesion: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See the class."""
        views = [self.net.read(*_inputs(self.net, image.flip(axes), lesion.flip(axes))) for axes in self.mirrors]
        logits, embedding, maps = views[0]
        scaled = torch.stack([view[0].float() / self.net.temperature for view in views])
        evidence = of_likeliest(logits, maps - maps.mean(dim=1, keepdim=True)).float().clamp(min=0)
        evidence = evidence / evidence.amax(dim=(2, 3), keepdim=True).clamp(min=1e-6)
        spread = functional.interpolate(evidence, size=(SALIENCY, SALIENCY), mode="bilinear", align_corners=False)
        return scaled.softmax(dim=2).mean(dim=0), embedding.float(), to_bytes(spread)[:, 0]


def _inputs(net: MaskGuided, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Picture and mask as the network takes them."""
    return area_sample(image, net.size, _SAMPLES), area_sample(mask[..., None], net.size, _SAMPLES)


def contract(network: MaskGuided | MutualSN) -> contracts.Contract:
    """Inputs and outputs of mask-CN's graph or of the ensemble."""
    if isinstance(network, MutualSN):
        return segment.contract(network)
    classes = network.head.out_features
    return contracts.Contract(
        inputs=(contracts.IMAGE, contracts.LESION),
        outputs=(
            contracts.Tensor("PROBABILITIES", (classes,), "float32"),
            contracts.Tensor("EMBEDDING", (network.features,), "float32"),
            contracts.Tensor("SALIENCY", (SALIENCY, SALIENCY)),
        ),
        parameters={"labels": ",".join(DIAGNOSES)},
    )


def build(network: MaskGuided, *, flips: bool = False) -> onnx.ModelProto:
    """Wrap mask-CN so that it keeps the classify stage's contract; ``flips`` as in :class:`ClassifyGraph`."""
    graph = ClassifyGraph(network, flips=flips)
    return export_graph(graph, {"IMAGE": (3,), "LESION": ()}, ["PROBABILITIES", "EMBEDDING", "SALIENCY"])


def build_localise(network: MutualSN) -> onnx.ModelProto:
    """The graph of mask-CN's step."""
    return export_graph(LocaliseGraph(network.guide), {"IMAGE": (3,), "COARSE": ()}, ["PROBABILITIES", "WHERE"])


def localise_contract(network: MutualSN) -> contracts.Contract:
    """Inputs and outputs of mask-CN's step."""
    return contracts.Contract(
        inputs=(contracts.IMAGE, contracts.Tensor("COARSE", (-1, -1))),
        outputs=(
            contracts.Tensor("PROBABILITIES", (network.guide.head.out_features,), "float32"),
            _where(network),
        ),
        parameters={"labels": ",".join(DIAGNOSES)},
    )


def build_enhance(network: MutualSN) -> onnx.ModelProto:
    """The graph of enhanced-SN's step."""
    example = [
        torch.zeros(2, 97, 131, 3, dtype=torch.uint8),
        torch.zeros(2, *_where(network).dims, dtype=torch.uint8),
    ]
    free = [{0: "N", 1: "H", 2: "W"}, {0: "N"}]
    return to_onnx(EnhanceGraph(network), example, inputs=["IMAGE", "WHERE"], outputs=["LESION"], free=free)


def enhance_contract(network: MutualSN) -> contracts.Contract:
    """Inputs and outputs of enhanced-SN's step."""
    return contracts.Contract(inputs=(contracts.IMAGE, _where(network)), outputs=(contracts.LESION,))


def _where(network: MutualSN) -> contracts.Tensor:
    side = -(-network.guide.size // STRIDE)
    return contracts.Tensor("WHERE", (side, side))
