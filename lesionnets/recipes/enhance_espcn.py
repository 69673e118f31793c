"""x4 super-resolution of lesion regions: the sub-pixel network, trained with L1 on random patches.

The truth is the image itself; the network sees it reduced by four. Most patches are reduced plainly, some also
blurred, noisy or JPEG-coded, so that what the network learns carries over to photographs as clinics store them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from lesionnets.data.isic import Image, find_samples
from lesionnets.data.lesion_crops import load_lesion_crops
from lesionnets.evaluation.enhance import Reduction, measure, reduce
from lesionnets.nets.espcn import SCALE, Espcn
from lesionnets.nets.sizes import scaled
from lesionnets.training import RecipeOptions, Run, fit

NAME = "enhance_espcn"
MINUTES = 11.0
PATIENCE = 20
CHANNELS = 24
"""At width 1.0, which two CPU cores can train."""
BATCH = 10
PATCH = 48  # low-resolution pixels
STEPS = 150  # batches that make an "epoch" of random patches
RATE = 2e-3


class PatchLoader:
    """Random pairs of low- and high-resolution patches; every epoch draws new ones.

    Yields pairs of float tensors in 0 to 1: [N, 3, patch, patch] and [N, 3, 4 patch, 4 patch].
    """

    def __init__(self, images: Sequence[Image], *, patch: int = PATCH, steps: int = STEPS) -> None:
        side = patch * SCALE
        self._images = [image for image in images if min(image.shape[:2]) >= side]
        self._patch, self._steps = patch, steps

    def __len__(self) -> int:
        return self._steps

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        rng = np.random.default_rng(np.random.randint(2**31))
        for _ in range(self._steps):
            pairs = [self._pair(rng) for _ in range(BATCH)]
            small, truth = (np.stack(images) for images in zip(*pairs, strict=True))
            yield _to_tensor(small), _to_tensor(truth)

    def _pair(self, rng: np.random.Generator) -> tuple[Image, Image]:
        image = self._images[rng.integers(len(self._images))]
        side = self._patch * SCALE
        top, left = (rng.integers(length - side + 1) for length in image.shape[:2])
        truth = np.rot90(image[top : top + side, left : left + side], k=rng.integers(4))
        if rng.random() < 0.5:
            truth = truth[:, ::-1]
        truth = np.ascontiguousarray(truth)
        return degrade(truth, rng), truth


def degrade(truth: Image, rng: np.random.Generator) -> Image:
    """Reduce a patch by four: in three of four cases plainly, else also blurred, noisy or JPEG-coded, mildly."""
    kind = rng.random()
    if kind < 0.5:
        return reduce(truth, "bicubic")
    if kind < 0.75:
        return reduce(truth, "area")
    blurred = cv2.GaussianBlur(truth, (0, 0), rng.uniform(0.4, 1.6))
    small = reduce(np.asarray(blurred, dtype=np.uint8), "bicubic")
    if rng.random() < 0.5:
        noise = rng.normal(0, rng.uniform(0.5, 3), small.shape)
        small = np.clip(np.rint(small + noise), 0, 255).astype(np.uint8)
    if rng.random() < 0.5:
        quality = int(rng.integers(70, 98))
        _, coded = cv2.imencode(".jpg", small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
        small = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), dtype=np.uint8)[..., ::-1]
    return np.ascontiguousarray(small)


def _to_tensor(images: Image) -> Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().float() / 255


def loss_step(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Mean absolute error (L1 keeps edges sharper than L2: Zhao et al. 2017)."""
    assert isinstance(model, Espcn)  # noqa: S101 - for the type checker
    small, truth = batch
    # In float32: bfloat16's 8 bits would be the largest error, and with few channels it is no faster on CPUs.
    with torch.autocast(small.device.type, enabled=False):
        error: Tensor = (model(small) - truth).abs().mean()
        return error


def enhance(model: nn.Module, image: Image) -> Image:
    """Run the network as it will be served: uint8 [h, w, 3] to uint8 [4h, 4w, 3], in float32."""
    where = next(model.parameters()).device
    with torch.inference_mode(), torch.autocast(where.type, enabled=False):
        out = model(_to_tensor(np.array(image[None])).to(where))[0]
    values = (out.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0)
    return np.asarray(values.cpu().numpy(), dtype=np.uint8)


class Validation:
    """PSNR of reduced and enhanced lesion regions, and how much that is above bicubic interpolation, in dB."""

    def __init__(self, crops: Sequence[Image]) -> None:
        self._crops = crops

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """See the class; ``_area`` is where the reduction took means of 4 x 4 pixels."""
        figures: dict[str, float] = {}
        suffixes: dict[Reduction, str] = {"bicubic": "", "area": "_area"}
        for how, suffix in suffixes.items():
            found = measure(lambda image: enhance(model, image), self._crops, how=how)
            for name, value in (("psnr", found.psnr), ("psnr_gain", found.gain)):
                key = name + suffix
                figures |= {key: value.mean, f"{key}_low": value.low, f"{key}_high": value.high}
        return figures


def train(options: RecipeOptions) -> Path:
    """Train and return the best checkpoint's path."""
    data = options.data_folder()
    training = find_samples(data / "train" / "images", data / "train" / "masks")
    held_out = find_samples(data / "val" / "images", data / "val" / "masks")
    smoke = options.smoke
    patch = 8 if smoke else PATCH
    # Every other image is more than a ten-minute training comes to see.
    images = load_lesion_crops(training[::2], limit=8 if smoke else None, least=patch * SCALE)
    crops = load_lesion_crops(held_out, limit=4 if smoke else None, least=16 if smoke else 64)
    hyper = {"channels": scaled(CHANNELS, options.width_or(1.0)), "blocks": 2}
    torch.manual_seed(options.seed)
    model = Espcn(**hyper)
    outcome = fit(
        model,
        loss_step,
        PatchLoader(images, patch=patch, steps=2 if smoke else STEPS),
        Validation(crops),
        run=Run(NAME, "espcn.Espcn", hyper, options.out, best_by="psnr_gain"),
        optimiser=torch.optim.Adam(model.parameters(), lr=RATE),
        epochs=1 if smoke else None,
        minutes=None if smoke else options.minutes or MINUTES,
        validate_every=4,
        patience=options.patience or PATIENCE,
        ema_decay=0.998,
        seed=options.seed,
        resume=options.resume,
        clip_norm=0.5,
    )
    return outcome.best
