"""x4 super-resolution of lesion regions: the sub-pixel network, trained on random patches of ISIC 2017.

The truth is the image itself; the network sees it reduced by four. Half of the patches are reduced only, half
are also blurred, noisy and JPEG-coded (:mod:`lesionnets.data.degradations`): one network learns from the picture
alone what to sharpen and what to smooth, so it serves clean pictures and photographs as clinics store them.
Patches are degraded once, so that training does not wait for it; half of them come from pictures that were reduced
before: other dermatoscopes show more detail a pixel (:mod:`lesionnets.data.batches.pooled_patches`). The network
learns to be computed in bytes, as its variant is that ships (:mod:`lesionnets.nets.byte_conv`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lesionnets.data.batches.lesion_crops import load_lesion_crops
from lesionnets.data.batches.patches import SHARES, to_tensor
from lesionnets.data.batches.pooled_patches import PooledPatches
from lesionnets.data.degradations import SCALE, Degradation
from lesionnets.data.sources.folds import COPIES
from lesionnets.data.sources.isic import Image, find_samples, read_image
from lesionnets.evaluation.enhance import measure
from lesionnets.nets.byte_conv import learn_bytes
from lesionnets.nets.enhance.espcn import Espcn
from lesionnets.nets.sizes import scaled
from lesionnets.training import RecipeOptions, TrainingRun, fit

NAME = "enhance_espcn"
MINUTES = 60.0
CHANNELS = 32
"""At width 1.0, which two CPU cores can train."""
BLOCKS = 3
BATCH = 8
PATCH = 40  # low-resolution pixels
EACH = 14
"""Pairs from an image: of 1,800 images 2.1 GB."""
STEPS = 500  # batches that make an "epoch" of random patches
RATE, FINE_RATE = 1e-3, 2e-4
"""Peak learning rates: from scratch, and from weights that are given."""
PATIENCE = 40
LEAST_ERROR = 2e-5
"""Of 1, added before the logarithm: 47 dB, beyond which better is no aim."""


def loss_step(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Mean over the patches of the logarithm of the mean squared error: what PSNR measures, except for its factor.

    The logarithm weighs a patch by its own error: otherwise noisy patches, whose error is several times that of
    clean ones, decide alone.
    """
    small, truth = batch
    # In float32: bfloat16's 8 bits would be the largest error, and with few channels it is no faster on CPUs.
    with torch.autocast(small.device.type, enabled=False):
        errors = (model(small) - truth).square().mean(dim=(1, 2, 3))
        loss: Tensor = (errors + LEAST_ERROR).log().mean()
        return loss


def enhance(model: nn.Module, image: Image) -> Image:
    """Run the network as it will be served: uint8 [h, w, 3] to uint8, as many times larger as it makes it."""
    where = next(model.parameters()).device
    with torch.inference_mode(), torch.autocast(where.type, enabled=False):
        out = model(to_tensor(np.array(image[None])).to(where))[0]
    values = (out.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0)
    return np.asarray(values.cpu().numpy(), dtype=np.uint8)


class PsnrValidation:
    """PSNR of degraded and enhanced lesion regions, and how much that is above bicubic interpolation, in dB."""

    def __init__(self, crops: Sequence[Image], scale: int = SCALE) -> None:
        self._crops, self._scale = crops, scale

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """See the class; ``psnr_gain`` is that of plain reduction, ``score`` the mean of the four gains."""
        figures: dict[str, float] = {}
        gains = []
        for how in Degradation:
            suffix = "" if how is Degradation.PLAIN else f"_{how}"
            found = measure(
                lambda image: enhance(model, image), self._crops, how=how, scale=self._scale, similarity=False
            )
            for name, value in (("psnr", found["psnr"]), ("psnr_gain", found["gain"])):
                key = name + suffix
                figures |= {key: value.mean, f"{key}_low": value.low, f"{key}_high": value.high}
            gains.append(found["gain"].mean)
        figures["score"] = sum(gains) / len(gains)
        return figures


def load_crops(data: Path, *, patch: int, smoke: bool) -> tuple[list[Image], list[Image]]:
    """Lesion regions of ``data/train``, as large as a patch at least, and of ``data/val``.

    Raises:
        UsageError: If folders or images are missing.
    """
    training = find_samples(data / "train" / "images", data / "train" / "masks")
    held_out = find_samples(data / "val" / "images", data / "val" / "masks")
    # Every other image is more than a training of half an hour comes to see.
    images = load_lesion_crops(training[::2], limit=8 if smoke else None, least=patch * SCALE)
    crops = load_lesion_crops(held_out, limit=4 if smoke else None, least=16 if smoke else 64)
    return images, crops


def train(options: RecipeOptions) -> Path:
    """Train on ``DATA/train``, choose on ``DATA/val``; returns the best checkpoint.

    Raises:
        UsageError: If the data folder or its parts are missing.
    """
    smoke, width = options.smoke, options.width_or(1.0, smoke=0.25)
    hyper = {"channels": scaled(CHANNELS, width), "blocks": 1 if smoke else BLOCKS}
    torch.manual_seed(options.seed)
    model = Espcn(**hyper)
    learn_bytes(model)
    run = TrainingRun(NAME, "espcn.Espcn", hyper, options.out, best_by="score")
    return train_on_pool(model, run, options, rate=RATE if options.init is None else FINE_RATE)


def train_on_pool(model: nn.Module, run: TrainingRun, options: RecipeOptions, *, rate: float = RATE) -> Path:
    """Train a network as :func:`train` does, on pairs of patches that are drawn once.

    Raises:
        UsageError: If the data folder or its parts are missing.
    """
    return fit_on(drawn(options), model, run, options, rate=rate)


def drawn(
    options: RecipeOptions,
    *,
    patch: int = PATCH,
    scale: int = SCALE,
    shares: Mapping[Degradation, float] = SHARES,
) -> PooledPatches:
    """Pairs of patches of ``DATA/train``.

    Args:
        options: Of the recipe.
        patch: Side of the small ones in pixels.
        scale: How many times larger the others are.
        shares: How often they are degraded in each way.

    Raises:
        UsageError: If the data folder or its parts are missing.
    """
    data, smoke = options.data_folder(), options.smoke
    found = find_samples(data / "train" / "images")
    training = [sample for sample in found if sample.image_id not in COPIES]
    return PooledPatches(
        (read_image(sample.image) for sample in (training[:4] if smoke else training)),
        patch=8 if smoke else patch,
        each=2 if smoke else EACH,
        batch_size=4 if smoke else BATCH,
        steps=2 if smoke else STEPS,
        seed=options.seed,
        scale=scale,
        shares=shares,
    )


def fit_on(
    patches: PooledPatches,
    model: nn.Module,
    run: TrainingRun,
    options: RecipeOptions,
    *,
    rate: float,
    scale: int = SCALE,
    validate_every: int = 6,
) -> Path:
    """Train a network that enlarges ``scale`` times on pairs of patches; returns the best checkpoint.

    Raises:
        UsageError: If parts of the data folder are missing.
    """
    data, smoke = options.data_folder(), options.smoke
    held_out = find_samples(data / "val" / "images", data / "val" / "masks")
    crops = load_lesion_crops(held_out, limit=4 if smoke else None, least=16 if smoke else 64)
    trained = fit(
        model,
        loss_step,
        patches,
        PsnrValidation(crops, scale),
        run=run,
        optimiser=torch.optim.Adam(model.parameters(), lr=rate),
        **options.limits(MINUTES, PATIENCE),
        validate_every=validate_every,
        ema_decay=0.998,
        clip_norm=30.0,  # the logarithm's gradients are those of an error of some ten-thousandths
    )
    return trained.best
