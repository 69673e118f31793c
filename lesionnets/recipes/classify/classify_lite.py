"""Diagnosis of lesions by an EfficientNet-Lite with ImageNet weights, made to work on other clinics' pictures.

Views lie anywhere between the lesion and the whole picture, keep its proportions except for some squashing, and
vary in light, colours, resolution and what covers the skin, as cameras and clinics do. Signs of the source must
not give away the diagnosis, so diagnoses are balanced within sources. No checkpoint is chosen: the last average of
the weights counts. ``--leave-out`` trains without a source and measures on it.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from dermbatch.errors import UsageError
from lesionnets import checkpoint
from lesionnets.data.batches.in_memory import Album, load_album
from lesionnets.data.batches.looked_at import LookedAt, Looks, Views, plain_views
from lesionnets.data.sources.folds import split_samples
from lesionnets.data.sources.isic import DIAGNOSES
from lesionnets.evaluation.figures.ranking import auc_by_class
from lesionnets.nets.classify.lite import LiteClassifier
from lesionnets.nets.efficient_lite import load_imagenet
from lesionnets.training import RecipeOptions, TrainingRun, device, fit

VERSION = 0
SIZE = 224
"""Side of the network's input in pixels."""
MARGIN = 9 / 7
"""Side of pictures in memory as a multiple of the network's input, so that zooming in stays sharp."""
BATCH = 64
EPOCHS = 45
MINUTES = 600.0
PATIENCE = 12
RATE = 1.5e-4
"""Peak learning rate of the encoder; the head learns ten times as fast."""
VARIED = Looks()
FROZEN = 3
"""First blocks of the encoder that are frozen: edges and colours are the same everywhere, and cost most."""
SHARES = (0.0, 1.0)
"""The two views that are served: lesion and picture."""


def train(options: RecipeOptions) -> Path:
    """Train on the ``train`` split of ``DATA/labels.csv``; returns the checkpoint.

    Raises:
        UsageError: If data or weights are missing, or another width is asked for.
    """
    if options.width not in (None, 1.0):
        raise UsageError("classify_lite has one width: its ImageNet weights fit no other; leave --width out")
    parts = split_samples(options.data_folder(), options.leave_out)
    training, held_out = ([one for one in part if one.diagnosis] for part in parts)
    size = 64 if options.smoke else SIZE
    if options.smoke:
        training, held_out = training[:8], held_out[-4:]
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
    vary: Looks = VARIED,
    batch_size: int = BATCH,
    rate: float = RATE,
) -> Path:
    """Run one training.

    Args:
        options: Folder, seed and time.
        training: Images with diagnoses, on the device.
        held_out: Images to measure on, also on the device.
        size: Side of the network's input in pixels.
        epochs: Number of epochs, if no minutes are given.
        version: Version of the encoder, 0 to 2.
        vary: What is varied.
        batch_size: Views in a step.
        rate: Peak learning rate of the encoder.

    Returns:
        Its checkpoint.
    """
    torch.manual_seed(options.seed)
    hyper = {"version": version, "classes": len(DIAGNOSES), "size": size}
    model = LiteClassifier(version, len(DIAGNOSES), size)
    if not options.smoke:
        load_imagenet(model.encoder, version)
    limits = options.limits(MINUTES, PATIENCE)
    limits["epochs"] = limits["epochs"] or epochs
    run = TrainingRun("classify_lite", checkpoint.name_of(LiteClassifier), hyper, options.out, best_by="mean_auc")
    loader = LookedAt(training, size, min(batch_size, len(training)), vary, options.seed)
    trained = fit(
        model,
        loss_step,
        loader,
        lambda network: measure(network, held_out, size),
        run=run,
        optimiser=optimiser(model, rate),
        validate_every=10**6,
        ema_decay=0.99 if len(loader) * limits["epochs"] < 500 else 0.995,
        **limits,
    )
    return trained.best


def optimiser(model: LiteClassifier, rate: float) -> torch.optim.Optimizer:
    """AdamW with two rates, for what is not frozen."""
    parts = [
        {"params": model.encoder.freeze(FROZEN), "lr": rate},
        {"params": list(model.head.parameters()), "lr": 10 * rate},
    ]
    return torch.optim.AdamW(parts, weight_decay=0.05)


def loss_step(model: nn.Module, batch: Views) -> Tensor:
    """Cross-entropy with softened labels."""
    images, masks, labels = batch
    logits = model(images, masks)[0].float()
    return functional.cross_entropy(logits, labels, label_smoothing=0.05)


def view_logits(model: nn.Module, album: Album, size: int) -> Tensor:
    """Float [N, views, classes]: the logits of both views of every image, as large as they are served."""
    assert isinstance(model, LiteClassifier)  # noqa: S101 - for the type checker: nothing else is trained here
    sides = [square.pixels(size) for square in model.squares]
    parts: list[Tensor] = []
    for start in range(0, len(album), 64):
        part = album.of(torch.arange(start, min(start + 64, len(album)), device=album.images.device))
        views = [
            model(*plain_views(part, side, share))[0].float() for share, side in zip(SHARES, sides, strict=True)
        ]
        parts.append(torch.stack(views, dim=1))
    return torch.cat(parts).cpu()


def measure(model: nn.Module, album: Album, size: int) -> dict[str, float]:
    """AUC by class and their mean, of the mean of both views, with masks of experts if there are any."""
    shares = view_logits(model, album, size).softmax(dim=2).mean(dim=1)
    return auc_by_class(shares.numpy(), album.labels.cpu().numpy())
