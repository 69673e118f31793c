"""How segmentation networks are chosen and calibrated."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from lesionnets import checkpoint
from lesionnets.data.sources.isic import find_samples
from lesionnets.evaluation.choosing.validation import MaskValidation, calibrate
from lesionnets.nets.segment.segmenter import Segmenter
from lesionnets.nets.segment.unet import UNet


@pytest.fixture
def validation(isic_folder: Path) -> MaskValidation:
    return MaskValidation(find_samples(isic_folder / "val" / "images", isic_folder / "val" / "masks"), 64)


class Expert(Segmenter):
    """Knows the masks."""

    def __init__(self, masks: torch.Tensor) -> None:
        super().__init__(64)
        self.masks = nn.Parameter(masks)
        self.next = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        start, self.next = self.next, self.next + len(images)
        return 20 * self.masks[start : self.next] - 10


def test_who_knows_the_masks_scores_one_but_for_the_resolution(validation: MaskValidation) -> None:
    figures = validation(Expert(torch.from_numpy(validation.masks)[:, None].float() / 255).requires_grad_(False))
    assert 0.93 < figures["jaccard"] < figures["dice"] <= 1
    assert figures["jaccard_low"] <= figures["jaccard"] <= figures["jaccard_high"]
    none = validation(Expert(torch.zeros(len(validation.masks), 1, 64, 64)).requires_grad_(False))
    assert none["jaccard"] == 0


def test_calibration_makes_the_masks_likelier_and_leaves_them_as_they_are(
    validation: MaskValidation, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    network = UNet(width=0.125, size=64).eval()
    with torch.no_grad():
        network.head.weight.mul_(30)  # sure of what it does not know
    path = tmp_path / "best.pt"
    state = network.state_dict()
    checkpoint.save(
        path,
        recipe="segment_unet",
        network="unet.UNet",
        hyper={"width": 0.125, "size": 64},
        state=state,
        figures={},
    )
    calibrate(path, validation)
    found = checkpoint.load(path)
    with torch.inference_mode():
        logits = validation.logits(network)
    truth = torch.from_numpy(validation.masks)[:, None].float() / 255
    before = float(functional.binary_cross_entropy_with_logits(logits, truth))
    assert found.figures["temperature"] > 1.2
    assert found.figures["entropy"] < 0.9 * before
    assert float(found.state["temperature"]) == pytest.approx(found.figures["temperature"])
    assert all(torch.equal(found.state[name], value) for name, value in state.items() if name != "temperature")
