"""Lesion segmentation by a U-Net on an EfficientNet-Lite with ImageNet's weights, also for faint lesions.

Experts draw faint lesions wide and sharp ones tight, and clinics differ. So the masks' edges are blurred, and the
network says how likely a pixel is to be drawn as lesion. Pictures lose contrast at random, and those on which the
network does badly come more often. ``--leave-out`` trains without a source and measures on it. No checkpoint is
chosen: the last average of the weights counts.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from lesionnets import checkpoint
from lesionnets.data.batches.in_memory import Album, load_album
from lesionnets.data.batches.soft_pairs import Batch, SoftPairs
from lesionnets.data.sources.folds import split_samples
from lesionnets.nets.efficient_lite import load_imagenet
from lesionnets.nets.segment.segmenter import Segmenter
from lesionnets.nets.segment.unet_lite import UNetLite
from lesionnets.training import RecipeOptions, TrainingRun, device, fit

VERSION = 0
SIZE = 256
"""Side of the network's input in pixels."""
MARGIN = 9 / 8
"""Side of pictures in memory as a multiple of the network's input, so that zooming in stays sharp."""
BATCH = 32
EPOCHS = 45
MINUTES = 900.0
PATIENCE = 12
FROZEN = 3
"""First blocks of the encoder that are frozen: edges and colours are the same everywhere, and cost most."""
RATE = 3e-3
"""Peak learning rate of the decoder; the encoder learns a tenth as fast."""


def train(options: RecipeOptions) -> Path:
    """Train on ``DATA/train`` and its additions; returns the checkpoint.

    Raises:
        UsageError: If data or weights are missing, or images and masks do not fit.
    """
    parts = split_samples(options.data_folder(), options.leave_out)
    training, held_out = ([one for one in part if one.mask] for part in parts)
    size = 64 if options.smoke else SIZE
    if options.smoke:
        training, held_out = training[:8], held_out[:4]
    albums = [load_album(part, round(size * MARGIN)).to(device()) for part in (training, held_out)]
    return train_one(options, *albums, size=size)


def train_one(
    options: RecipeOptions,
    training: Album,
    held_out: Album,
    *,
    size: int = SIZE,
    epochs: int = EPOCHS,
    version: int = VERSION,
    soft: bool = True,
    batch_size: int = BATCH,
) -> Path:
    """Run one training.

    Args:
        options: Folder, seed and time.
        training: Images with masks, on the device.
        held_out: Images to measure on, also on the device.
        size: Side of the network's input in pixels.
        epochs: Number of epochs, if no minutes are given.
        version: Version of the encoder, 0 to 2.
        soft: Blur the masks' edges.
        batch_size: Pictures in a step.

    Returns:
        Its checkpoint.
    """
    torch.manual_seed(options.seed)
    hyper = {"version": version, "width": options.width_or(1.0, smoke=0.25), "size": size}
    model = UNetLite(**hyper)  # type: ignore[arg-type]
    if not options.smoke:
        load_imagenet_encoder(model, version)
    limits = options.limits(MINUTES, PATIENCE, smoke=2)
    limits["epochs"] = limits["epochs"] or epochs
    pairs = SoftPairs(training, size, min(batch_size, len(training)), seed=options.seed, soft=soft)

    def loss_step(model: nn.Module, batch: Batch) -> Tensor:
        images, masks, chosen = batch
        losses = overlap_losses(model(images).float(), masks)
        pairs.learn(chosen, losses.detach())
        return losses.mean()

    trained = fit(
        model,
        loss_step,
        pairs,
        lambda network: measure(network, held_out, size),
        run=TrainingRun("segment_lite", checkpoint.name_of(UNetLite), hyper, options.out, best_by="jaccard"),
        optimiser=optimiser(model),
        validate_every=10**6,
        ema_decay=0.995,
        companion=pairs,
        **limits,
    )
    return trained.best


def load_imagenet_encoder(model: UNetLite, version: int) -> None:
    """Load ImageNet's weights into the encoder, which has no last layer."""
    whole = type(model.encoder)(version)
    load_imagenet(whole, version)
    wanted = model.encoder.state_dict()
    model.encoder.load_state_dict({name: value for name, value in whole.state_dict().items() if name in wanted})


def optimiser(model: UNetLite) -> torch.optim.Optimizer:
    """AdamW with two rates, for what is not frozen."""
    parts = [
        {"params": model.encoder.freeze(FROZEN), "lr": RATE / 10},
        {"params": [*model.decoder.parameters(), *model.head.parameters()], "lr": RATE},
    ]
    return torch.optim.AdamW(parts, weight_decay=1e-2)


def overlap_losses(logits: Tensor, masks: Tensor) -> Tensor:
    """Cross-entropy and 1 - soft Jaccard of each picture, [N]; masks may be soft.

    Args:
        logits: Float [N, 1, S, S].
        masks: Float [N, 1, S, S], 0 to 1.
    """
    entropy = functional.binary_cross_entropy_with_logits(logits, masks, reduction="none").mean(dim=(1, 2, 3))
    share = logits.sigmoid()
    both = torch.minimum(share, masks).sum(dim=(1, 2, 3))
    either = torch.maximum(share, masks).sum(dim=(1, 2, 3))
    return entropy + 1 - (both + 1) / (either + 1)


def maps(model: nn.Module, album: Album, size: int) -> Tensor:
    """Logits [N, 1, size, size] of an album's pictures, squashed as in the served graph."""
    assert isinstance(model, Segmenter)  # noqa: S101 - for the type checker: nothing else segments
    parts: list[Tensor] = []
    for part in torch.split(album.images, 32):
        small = functional.interpolate(part.float() / 255, size=(size, size), mode="bilinear", antialias=True)
        parts.append(model.logits(small).float().cpu())
    return torch.cat(parts)


def measure(model: nn.Module, album: Album, size: int) -> dict[str, float]:
    """Mean Jaccard at the size of the album, thresholded at one half."""
    found = functional.interpolate(maps(model, album, size), size=album.masks.shape[-2:], mode="bilinear") >= 0
    truth = album.masks.cpu() > 127
    both, either = ((found & truth).sum(dim=(1, 2, 3)), (found | truth).sum(dim=(1, 2, 3)))
    return {"jaccard": float((both / either.clamp_min(1)).mean())}
