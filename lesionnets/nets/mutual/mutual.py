"""MB-DCNN's networks in a row: coarse-SN, mask-CN and enhanced-SN find the lesion of an image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lesionnets.nets.mutual.mask_guided import MaskGuided, localisation_map
from lesionnets.nets.mutual.mb_dcnn import CoarseSN, EnhancedSN, MaskCN
from lesionnets.nets.mutual.mb_dcnn_mobile import MobileCoarseSN, MobileEnhancedSN, MobileMaskCN
from lesionnets.nets.segment.segmenter import Segmenter

BACKBONES: dict[str, tuple[type[Segmenter], type[MaskGuided], type[Segmenter]]] = {
    "mobilenet": (MobileCoarseSN, MobileMaskCN, MobileEnhancedSN),
    "xception": (CoarseSN, MaskCN, EnhancedSN),
}
"""coarse-SN, mask-CN and enhanced-SN on each backbone."""


class MutualSN(Segmenter):
    """The three networks as one segmenter; the first two are frozen and stay in evaluation mode.

    Args:
        backbone: One of :data:`BACKBONES`; "xception" is the paper's.
        segment: Keyword arguments of coarse-SN and enhanced-SN.
        classify: Keyword arguments of mask-CN.

    Shape:
        image float [N, 3, H, W], 0 to 1 -> logits of lesion [N, 1, H, W].
    """

    graph = "mb_dcnn"
    """Module of ``lesionnets.graphs`` that serves it, step by step as Triton does."""

    def __init__(self, backbone: str, segment: Mapping[str, Any], classify: Mapping[str, Any]) -> None:
        if backbone not in BACKBONES:
            raise TypeError(f"there is no backbone {backbone!r}; there are {', '.join(BACKBONES)}")
        coarse_kind, mask_kind, enhanced_kind = BACKBONES[backbone]
        enhanced = enhanced_kind(**segment)
        super().__init__(enhanced.size)
        self.coarse = coarse_kind(**segment)
        self.guide = mask_kind(**classify)
        self.enhanced = enhanced
        self.coarse.requires_grad_(requires_grad=False)
        self.guide.requires_grad_(requires_grad=False)

    def train(self, mode: bool = True) -> MutualSN:
        """As for every network, except that the frozen ones stay in evaluation mode, as they are served."""
        super().train(mode)
        self.coarse.eval()
        self.guide.eval()
        return self

    def forward(self, image: Tensor) -> Tensor:
        """See the class."""
        coarse = (self.coarse(image) / self.coarse.temperature).sigmoid()
        logits: Tensor = self.enhanced(image, localisation_map(*self.guide(image, coarse)))
        return logits
