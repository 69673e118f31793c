"""Diagnosis by patterns that the network discovers itself (S17; US 2018/0130203 A1, [0063]), on a frozen encoder.

EfficientNet-Lite0 is frozen and run only once, on several views of each picture (:mod:`lesionnets.data.bank`);
learning on top takes minutes. So a training has as many views as the bank, which is next to the run, for other
runs, too. As with ``classify_lite``, diagnoses are balanced within sources, no checkpoint is chosen, and
``--leave-out`` trains without a source and measures on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from dermbatch.errors import UsageError
from lesionnets import checkpoint
from lesionnets.data.bank import LevelBank, kept_levels
from lesionnets.data.batches.in_memory import WeightedSampler, balanced, load_album
from lesionnets.data.batches.looked_at import LookedAt, Looks, plain_views
from lesionnets.data.sources.folds import all_samples, source_of
from lesionnets.data.sources.isic import DIAGNOSES, Sample
from lesionnets.evaluation.figures.ranking import auc_by_class
from lesionnets.nets.classify.lite_patterns import Levels, LitePatterns
from lesionnets.nets.efficient_lite import EfficientLite, load_imagenet
from lesionnets.training import RecipeOptions, TrainingRun, fit, seed_everything

NAME = "classify_patterns"
SIZE = 160
"""Side of the network's input in pixels."""
MARGIN = 9 / 7
VIEWS = 1
"""Number of random views of each picture in the bank; each one more costs as much as a training."""
SHARES = (0.0,)
"""The views that are served: the lesion alone. They are the bank's last ones."""
BATCH = 64
EPOCHS = 12
MINUTES = 60.0
PATIENCE = 12
RATE = 2e-3
BANK_SEED = 2017
"""Seed of the views; trainings with other seeds see the same ones."""
AT_ONCE = 32

Batch = tuple[tuple[Tensor, ...], Tensor, Tensor]
"""The encoder's levels, masks float [N, 1, S, S], labels int64 [N]."""


@dataclass(frozen=True)
class EncodedPictures:
    """Pictures as the encoder sees them.

    Attributes:
        bank: Bank of all pictures.
        labels: Int64 [N].
        sources: Int64 [N].
    """

    bank: LevelBank
    labels: Tensor
    sources: Tensor

    def of(self, rows: Tensor) -> EncodedPictures:
        """Some of the pictures, by rows int64 [n]."""
        bank = LevelBank(tuple(level[rows] for level in self.bank.levels), self.bank.masks[rows])
        return EncodedPictures(bank, self.labels[rows], self.sources[rows])


class BankViews:
    """Batches of random views out of a bank.

    Args:
        seen: All pictures.
        rows: Int64 [n]: rows to train on.
        batch_size: Views in a batch.
    """

    def __init__(self, seen: EncodedPictures, rows: Tensor, batch_size: int) -> None:
        self.seen, self.rows = seen, rows
        self.draws = WeightedSampler(balanced(seen.labels[rows], seen.sources[rows], 0.5), batch_size)

    def __len__(self) -> int:
        return len(self.draws)

    def __iter__(self) -> Iterator[Batch]:
        views = self.seen.bank.masks.shape[1]
        for chosen in self.draws:
            rows = self.rows[chosen]
            yield *self.seen.bank.of(rows, torch.randint(views, (len(rows),))), self.seen.labels[rows]


def train(options: RecipeOptions) -> Path:
    """Train on the ``train`` split of ``DATA/labels.csv``; returns the checkpoint.

    Raises:
        UsageError: If data or weights are missing, or another width is asked for.
    """
    if options.width not in (None, 1.0):
        raise UsageError(f"{NAME} has one width: its ImageNet weights fit no other; leave --width out")
    size = 64 if options.smoke else SIZE
    torch.manual_seed(options.seed)
    hyper = {"size": size}
    model = LitePatterns(**hyper)
    if not options.smoke:
        whole = EfficientLite()
        load_imagenet(whole, 0)
        model.load(whole)
    training, held_out = see(options, model, size)
    rows = torch.arange(len(training.labels))
    if options.leave_out is not None:
        inside = training.sources == options.leave_out
        rows, held_out = rows[~inside], training.of(rows[inside])
    if not len(held_out.labels):
        raise UsageError(f"no image with a diagnosis is from source {options.leave_out}; leave out another one")
    limits = options.limits(MINUTES, PATIENCE)
    limits["epochs"] = limits["epochs"] or EPOCHS
    trained = fit(
        model,
        loss_step,
        BankViews(training, rows, min(BATCH, len(rows))),
        lambda network: measure(network, held_out),
        run=TrainingRun(NAME, checkpoint.name_of(LitePatterns), hyper, options.out, best_by="mean_auc"),
        optimiser=torch.optim.AdamW(
            [value for value in model.parameters() if value.requires_grad], lr=RATE, weight_decay=0.05
        ),
        validate_every=10**6,
        ema_decay=0.99,
        **limits,
    )
    save_learned(trained.best)
    return trained.best


def save_learned(path: Path) -> None:
    """Write beside a checkpoint ``learned.pt``, the same without the encoder: a hundredth of its size."""
    trained = checkpoint.load(path)
    learned = {name: value for name, value in trained.state.items() if not name.startswith("encoder.")}
    checkpoint.save(path.with_name("learned.pt"), **(vars(trained) | {"state": learned}))


def see(options: RecipeOptions, model: LitePatterns, size: int) -> tuple[EncodedPictures, EncodedPictures]:
    """The pictures to train on, and those to measure on, as the encoder sees them; banks lie beside the run.

    Raises:
        UsageError: If data is missing or cannot be read.
    """
    folder = options.out.parent / f"bank-{NAME}-{size}{'-smoke' * options.smoke}"
    found = []
    for split in ("train", "val"):
        samples = [one for one in all_samples(options.data_folder(), split) if one.diagnosis]
        if options.smoke:
            samples = samples[:8] if split == "train" else samples[-4:]
        views = VIEWS if split == "train" else 0
        bank = kept_levels(
            folder / f"{split}-{len(samples)}",
            model.levels,
            random_and_plain(samples, size, views),
            pictures=len(samples),
            views=views + len(SHARES),
            side=size // 8,
        )
        labels = torch.tensor([DIAGNOSES.index(str(one.diagnosis)) for one in samples])
        found.append(EncodedPictures(bank, labels, torch.tensor([source_of(one.image_id) for one in samples])))
    return found[0], found[1]


def random_and_plain(samples: Sequence[Sample], size: int, views: int) -> Iterator[tuple[Tensor, Tensor]]:
    """So many random views of all pictures, one after another, then those that are served."""
    album = load_album(samples, round(size * MARGIN))
    batches = [album.of(chosen) for chosen in torch.split(torch.arange(len(album)), AT_ONCE)]
    if views:
        seed_everything(BANK_SEED)
        looked_at = LookedAt(album, size, AT_ONCE, Looks(), BANK_SEED)
        for _ in range(views):
            for part in batches:
                yield looked_at.view(part)[:2]
    for share in SHARES:
        for part in batches:
            yield plain_views(part, size, share)


def loss_step(model: nn.Module, batch: Batch) -> Tensor:
    """Cross-entropy with softened labels."""
    assert isinstance(model, LitePatterns)  # noqa: S101 - for the type checker: this recipe's own
    levels, masks, labels = batch
    logits = model.diagnose(*model.described(Levels(*levels)), masks)[0].float()
    return functional.cross_entropy(logits, labels, label_smoothing=0.05)


def measure(model: nn.Module, seen: EncodedPictures) -> dict[str, float]:
    """AUC by class and their mean, of the mean of the served views, with experts' masks if there are any."""
    assert isinstance(model, LitePatterns)  # noqa: S101
    parts = []
    for rows in torch.split(torch.arange(len(seen.labels)), BATCH):
        shares = torch.zeros(len(rows), len(DIAGNOSES))
        for back in range(len(SHARES)):
            levels, masks = seen.bank.of(rows, torch.full_like(rows, seen.bank.masks.shape[1] - 1 - back))
            shares += model.diagnose(*model.described(Levels(*levels)), masks)[0].float().softmax(dim=1)
        parts.append(shares / len(SHARES))
    return auc_by_class(torch.cat(parts).numpy(), seen.labels.numpy())
