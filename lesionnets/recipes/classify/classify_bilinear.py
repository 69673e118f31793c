"""Diagnosis by discovered patterns, with the network of the patent's sources, trained from scratch (S17).

Lin et al. (ICCV 2015) start from ImageNet's weights. None are free for VGG-16, so the filters are learned here.
Views, balance and measure are as in ``classify_lite``, except for the lesion alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from lesionnets import checkpoint
from lesionnets.data.batches.in_memory import Album, load_album
from lesionnets.data.batches.looked_at import LookedAt, Looks, plain_views
from lesionnets.data.sources.folds import split_samples
from lesionnets.evaluation.figures.ranking import auc_by_class
from lesionnets.nets.classify.bilinear_vgg import BilinearVgg
from lesionnets.recipes.classify.classify_lite import MARGIN, loss_step
from lesionnets.training import RecipeOptions, TrainingRun, device, fit

NAME = "classify_bilinear"
SIZE = 128
"""Side of the network's input on a CPU in pixels; the source's is 448."""
BATCH = 32
RATE = 1e-3
MINUTES = 15.0
WIDTH = 0.25
"""Multiplies the channels on a CPU; 1.0 is VGG-16's width."""
PATIENCE = 12
AT_ONCE = 64


def train(options: RecipeOptions) -> Path:
    """Train on the ``train`` split of ``DATA/labels.csv``, choose on ``val``; returns the best checkpoint.

    Raises:
        UsageError: If data are missing.
    """
    parts = split_samples(options.data_folder(), options.leave_out)
    training, held_out = ([one for one in part if one.diagnosis] for part in parts)
    size, batch = SIZE, BATCH
    if options.smoke:
        training, held_out, size, batch = training[:8], held_out[-4:], 64, 4
    albums = [load_album(part, round(size * MARGIN)).to(device()) for part in (training, held_out)]
    torch.manual_seed(options.seed)
    hyper: dict[str, Any] = {"width": options.width_or(WIDTH), "size": size}
    model = BilinearVgg(**hyper)
    trained = fit(
        model,
        loss_step,
        LookedAt(albums[0], size, min(batch, len(albums[0])), Looks(), options.seed),
        lambda network: measure(network, albums[1], size),
        run=TrainingRun(NAME, checkpoint.name_of(BilinearVgg), hyper, options.out, best_by="mean_auc"),
        optimiser=torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.05),
        ema_decay=0.99,
        **options.limits(MINUTES, PATIENCE),
    )
    return trained.best


def measure(model: nn.Module, album: Album, size: int) -> dict[str, float]:
    """AUC by class and their mean on the lesions, with masks of experts if there are any."""
    parts = []
    for rows in torch.split(torch.arange(len(album), device=album.images.device), AT_ONCE):
        parts.append(model(*plain_views(album.of(rows), size, 0.0))[0].float().softmax(dim=1))
    return auc_by_class(torch.cat(parts).cpu().numpy(), album.labels.cpu().numpy())
