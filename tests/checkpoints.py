"""Checkpoints of networks that were never trained, and yet are decided."""

from __future__ import annotations

from pathlib import Path

import torch

from lesionnets import checkpoint


def decided_unet(folder: Path, *, width: float, seed: int) -> Path:
    """A checkpoint of a U-Net with random weights whose answers are decided, as a trained network's are."""
    torch.manual_seed(seed)
    hyper = {"width": width, "size": 64}
    state = checkpoint.network("unet.UNet", hyper).state_dict()
    state["head.weight"] *= 20
    path = folder / "best.pt"
    checkpoint.save(path, recipe="segment_unet", network="unet.UNet", hyper=hyper, state=state, figures={})
    return path
