"""One-shot segmentation of rare diseases by CD-FSS (see :mod:`lesionnets.nets.segment.one_shot`).

Lesions of ``DATA`` (ISIC 2017, CC0, or HAM10000) are the skin domain, ``DATA/../openclipart`` (public domain) or
``DATA/../fss1000`` the natural one; algorithm 1 takes them in turns. ``--unseen`` leaves a diagnosis out of
training and measures on it; ``--learning`` gives the other rows of the paper's table 1. No checkpoint is chosen:
the last average of the weights counts. On a CPU the encoder is frozen and run only once
(:mod:`lesionnets.data.bank`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dermbatch.errors import UsageError
from lesionnets import checkpoint
from lesionnets.data.bank import NaturalBank, SkinBank, described, kept, natural_views, skin_views
from lesionnets.data.batches.episodes import Alternate, Batch, Episodes, NaturalEpisodes, SkinEpisodes
from lesionnets.data.batches.in_memory import Album, load_album
from lesionnets.data.sources.folds import all_samples
from lesionnets.data.sources.ham10000 import is_ham10000, split_by_lesion
from lesionnets.data.sources.isic import MASK_END, Sample
from lesionnets.data.sources.natural import Things, load_things
from lesionnets.losses.overlap import bce_dice_loss
from lesionnets.nets.efficient_lite import EfficientLite, load_imagenet
from lesionnets.nets.segment.extractors import Lite
from lesionnets.nets.segment.one_shot import OneShot
from lesionnets.training import Learning, RecipeOptions, TrainingRun, device, fit

SIZE = 128
"""Side of the network's input in pixels; the paper's is 224."""
MARGIN = 9 / 8
BATCH = 8
STEPS = 100
"""Number of batches of specific and of generic learning in an epoch."""
MINUTES = 60.0
PATIENCE = 12
RATE = 3e-3
"""Peak learning rate of all but the encoder; E_3,4 learns a quarter as fast."""
VIEWS = 2
"""Number of views of each lesion in a bank."""
THINGS = 250
"""Number of batches of things in a bank."""
GENERIC = (Learning.ALTERNATE, Learning.NATURAL)
DRAWS = 5
"""Number of draws of a support for the validation."""


def train(options: RecipeOptions) -> Path:
    """Train on ``DATA/train`` without the unseen diagnosis, and measure on its images in ``DATA/val``.

    Raises:
        UsageError: If data or weights are missing, or no image has the unseen diagnosis.
    """
    torch.manual_seed(options.seed)
    size, batch, steps = (64, 4, 2) if options.smoke else (SIZE, BATCH, STEPS)
    training, held_out = parts(options)
    seen = [one for one in training if one.diagnosis != options.unseen]
    shown, asked = (
        [one for one in part if options.unseen in (None, one.diagnosis)] for part in (training, held_out)
    )
    hyper: dict[str, Any] = {"width": options.width_or(1.0, smoke=0.25), "size": size, "unseen": options.unseen}
    hyper["guided"] = options.learning is not Learning.PLAIN
    model = network(options, hyper)
    frozen = device().type == "cpu"
    domains = banked(options, model, training, size, batch) if frozen else live(options, seen, size, batch)
    if options.init is None:
        standardise(model, domains)
    trained = fit(
        model,
        partial(loss_step, learning=options.learning),
        Alternate(*domains, steps),
        Examination.of(shown, asked, size),
        run=TrainingRun("segment_oneshot", checkpoint.name_of(OneShot), hyper, options.out, best_by="dice"),
        optimiser=optimiser(model),
        validate_every=10**6,
        ema_decay=0.995,
        **options.limits(MINUTES, PATIENCE, smoke=2) | {"init": None},  # the bank was described by it already
    )
    return trained.best


@torch.no_grad()
def standardise(model: OneShot, domains: Domains) -> None:
    """Fit the standardisation of features on some batches of all domains."""
    batches = [part.batch() for part in domains if part is not None for _ in range(8)]
    pairs = [
        (one["low"], one["high"])
        if "low" in one
        else ((low := model.extractor.low(one["images"])), model.extractor.high(low))
        for one in batches
    ]
    model.standardise(*(torch.cat(kind) for kind in zip(*pairs, strict=True)))


Domains = tuple[Episodes | None, Episodes | None]
"""Lesions and things, as far as the kind of learning needs them."""


def live(options: RecipeOptions, seen: Sequence[Sample], size: int, batch: int) -> Domains:
    """Both domains, augmented differently each time."""
    skin = things = None
    if options.learning is not Learning.NATURAL:
        album = album_of(seen, round(size * MARGIN))
        skin = SkinEpisodes(album, class_indices(seen), size, batch, options.seed)
    if options.learning in GENERIC:
        things = NaturalEpisodes(natural(options, size), size, batch)
    return skin, things


def banked(options: RecipeOptions, model: OneShot, samples: Sequence[Sample], size: int, batch: int) -> Domains:
    """Both domains as the frozen extractor described them once; other runs can use the banks next to the run."""
    skin = things = None
    folder = options.out.parent / f"bank-{size}-{options.seed}{'-smoke' * options.smoke}"
    if options.learning is not Learning.NATURAL:
        views = 1 if options.smoke else VIEWS
        bank = kept(
            folder / f"skin-{len(samples)}",
            lambda: described(
                model.extractor, skin_views(album_of(samples, round(size * MARGIN)), size, views, options.seed)
            ),
        )
        kinds = [str(one.diagnosis) for one in samples] * views
        wanted = [kind for kind in sorted(set(kinds)) if kind != options.unseen]
        skin = SkinBank(
            bank, [torch.tensor([row for row, one in enumerate(kinds) if one == kind]) for kind in wanted], batch
        )
    if options.learning in GENERIC:
        count = 4 if options.smoke else THINGS
        bank = kept(
            folder / "things",
            lambda: described(
                model.extractor, natural_views(NaturalEpisodes(natural(options, size), size, batch), count)
            ),
        )
        things = NaturalBank(bank, batch)
    return skin, things


def parts(options: RecipeOptions) -> tuple[list[Sample], list[Sample]]:
    """Images with masks and diagnoses to train on and to measure on, of ISIC 2017 or HAM10000.

    Raises:
        UsageError: If there are no images, or none of the unseen diagnosis.
    """
    data = options.data_folder()
    if is_ham10000(data):
        found = [
            [replace(one, mask=data / "masks" / f"{one.image_id}{MASK_END}") for one in part]
            for part in split_by_lesion(data)
        ]
    else:
        found = [all_samples(data, split) for split in ("train", "val")]
    training, held_out = (
        [one for one in part if one.mask and one.mask.is_file() and one.diagnosis] for part in found
    )
    if options.unseen and options.unseen not in {one.diagnosis for one in held_out}:
        raise UsageError(f"{data} has no images of {options.unseen} with masks to measure on")
    if options.smoke:
        training, held_out = (few_of_each(part, 6) for part in (training, held_out))
    return training, held_out


def few_of_each(samples: Sequence[Sample], most: int) -> list[Sample]:
    """The first images of each diagnosis."""
    names = {one.diagnosis for one in samples}
    return [one for name in sorted(map(str, names)) for one in [s for s in samples if s.diagnosis == name][:most]]


def class_indices(samples: Sequence[Sample]) -> Tensor:
    """Indices of the diagnoses, int64 [N], in the order of their names."""
    names = sorted({str(one.diagnosis) for one in samples})
    return torch.tensor([names.index(str(one.diagnosis)) for one in samples])


def album_of(samples: Sequence[Sample], size: int) -> Album:
    """Images in memory, whatever their diagnoses are called."""
    return load_album([replace(one, diagnosis=None) for one in samples], size).to(device())


def natural(options: RecipeOptions, size: int) -> Things:
    """The natural domain, next to the data.

    Raises:
        UsageError: If there is none.
    """
    folders = [options.data_folder().parent / name for name in ("fss1000", "openclipart")]
    for folder in folders:
        if folder.is_dir():
            return load_things(folder, size, 24 if options.smoke else None)
    raise UsageError(f"few-shot learning needs pictures of things: {' or '.join(map(str, folders))}")


def network(options: RecipeOptions, hyper: dict[str, Any]) -> OneShot:
    """The network that training starts with: from ImageNet's encoder, or from ``--init``."""
    model = OneShot(**hyper)
    assert isinstance(model.extractor, Lite)  # noqa: S101 - for the type checker
    if options.init is not None:
        model.load_state_dict(checkpoint.load(options.init, recipe="segment_oneshot").state)
    elif not options.smoke:
        whole = EfficientLite(0)
        load_imagenet(whole, 0)
        model.extractor.load(whole)
    if device().type == "cpu":
        model.freeze()
    return model


def optimiser(model: OneShot) -> torch.optim.Optimizer:
    """AdamW with two rates."""
    encoder = [value for value in model.extractor.parameters() if value.requires_grad]
    known = {id(value) for value in model.extractor.parameters()}
    rest = [value for value in model.parameters() if id(value) not in known]
    return torch.optim.AdamW(
        [{"params": encoder, "lr": RATE / 4}, {"params": rest, "lr": RATE}], weight_decay=1e-2
    )


def loss_step(model: nn.Module, batch: Batch, *, learning: Learning) -> Tensor:
    """Cross-entropy and Dice of a batch of episodes; freezes what its kind of learning freezes.

    The paper uses Dice alone, with which learners that start from scratch do not learn: it stays at 0.6.
    """
    assert isinstance(model, OneShot)  # noqa: S101 - for the type checker
    if learning is Learning.ALTERNATE:
        model.learn("generic" if batch["generic"].item() else "specific")
    features = (
        model.features(batch["images"]) if "images" in batch else model.described(batch["low"], batch["high"])
    )
    known = model.prototypes(features, batch["masks"]).roll(-1, dims=0)
    return bce_dice_loss(model.compared(features, known), batch["masks"])


@dataclass(frozen=True)
class Examination:
    """Mean Dice over images and supports of their diagnosis, at the network's size, thresholded at one half.

    Attributes:
        images: Images whose masks are to be found.
        kinds: Diagnosis of each image.
        supports: Some pictures with masks to draw from, by diagnosis.
    """

    images: Album
    kinds: list[str]
    supports: dict[str, Album]

    @classmethod
    def of(cls, shown: Sequence[Sample], held_out: Sequence[Sample], size: int) -> Examination:
        """Choose supports among the images that may be shown."""
        kinds = [str(one.diagnosis) for one in held_out]
        drawn = {kind: spread([one for one in shown if one.diagnosis == kind]) for kind in sorted(set(kinds))}
        supports = {kind: album_of(some, size) for kind, some in drawn.items()}
        return cls(album_of(held_out, size), kinds, supports)

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """Means over images and draws, in all and by diagnosis."""
        assert isinstance(model, OneShot)  # noqa: S101 - for the type checker
        features = [model.features(part.float() / 255) for part in torch.split(self.images.images, 16)]
        truth = self.images.masks > 127
        found: dict[str, Tensor] = {}
        for kind, album in self.supports.items():
            known = model.prototypes(model.features(album.images.float() / 255), album.masks.float() / 255)
            rows = torch.tensor([name == kind for name in self.kinds], device=truth.device)
            logits = [
                torch.cat([model.compared(one, each.expand(len(one[0]), -1)) for one in features])
                for each in known
            ]
            found[kind] = torch.stack([dices(part[rows] >= 0, truth[rows]) for part in logits]).mean(dim=0)
        means = {f"dice_{kind}": float(values.mean()) for kind, values in found.items()}
        return {"dice": float(torch.cat(list(found.values())).mean()), **means}


def spread(samples: Sequence[Sample]) -> list[Sample]:
    """Supports, taken at even distances."""
    return [samples[(2 * draw + 1) * len(samples) // (2 * DRAWS)] for draw in range(DRAWS)]


def dices(found: Tensor, truth: Tensor) -> Tensor:
    """Dice of each mask, from bool [N, 1, S, S]."""
    both = (found & truth).sum(dim=(1, 2, 3))
    return 2 * both / (found.sum(dim=(1, 2, 3)) + truth.sum(dim=(1, 2, 3))).clamp_min(1)
