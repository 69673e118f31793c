"""The training loop: it learns, keeps the best, stops in time, and goes on after a kill as if nothing had been."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dermbatch.errors import UsageError
from lesionnets import checkpoint
from lesionnets.nets.unet import UNet
from lesionnets.training import Run, fit, one_cycle, seed_everything, shuffled

HYPER = {"channels": [16, 8], "dropout": 0.1}


class Brightness:
    """Bright pixels are lesion: learned in a few steps."""

    def __len__(self) -> int:
        return 6

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for _ in range(6):
            images = patches(4)
            yield images, (images.mean(dim=1, keepdim=True) > 0.5).float()


def patches(count: int) -> Tensor:
    return nn.functional.interpolate(torch.rand(count, 3, 2, 2), scale_factor=8.0)


def loss_step(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    images, masks = batch
    return nn.functional.binary_cross_entropy_with_logits(model(images).float(), masks)


def validate(model: nn.Module) -> dict[str, float]:
    torch.manual_seed(0)
    images = patches(8)
    right = (model(images) > 0) == (images.mean(dim=1, keepdim=True) > 0.5)
    return {"accuracy": float(right.float().mean())}


def run_fit(out: Path, *, validation: Any = validate, loss: Any = loss_step, **options: Any) -> Any:
    seed_everything(1)
    model = UNet(**HYPER)
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-2)
    run = Run("test_recipe", "unet.UNet", HYPER, out, best_by="accuracy")
    return fit(model, loss, Brightness(), validation, run=run, optimiser=optimiser, ema_decay=0.5, **options)


def test_it_learns_and_writes_what_it_promises(tmp_path: Path) -> None:
    outcome = run_fit(tmp_path, epochs=8)
    assert outcome.figures["accuracy"] > 0.8
    assert outcome.epochs == 8
    best = checkpoint.load(outcome.best, recipe="test_recipe")
    assert validate(best.build())["accuracy"] == pytest.approx(outcome.figures["accuracy"], abs=0.01)
    rows = list(csv.DictReader((tmp_path / "log.csv").read_text().splitlines()))
    assert [int(row["epoch"]) for row in rows] == list(range(1, 9))
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    assert max(float(row["accuracy"]) for row in rows) == pytest.approx(outcome.figures["accuracy"], abs=1e-4)


def test_a_killed_run_goes_on_as_if_it_had_not_been_killed(tmp_path: Path) -> None:
    whole = run_fit(tmp_path / "whole", epochs=5)
    steps = 0

    def killed(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        nonlocal steps
        steps += 1
        if steps == 15:  # in the third epoch
            raise KeyboardInterrupt
        return loss_step(model, batch)

    with pytest.raises(KeyboardInterrupt):
        run_fit(tmp_path / "killed", loss=killed, epochs=5)
    resumed = run_fit(tmp_path / "killed", epochs=5, resume=True)
    assert resumed.figures == whole.figures
    states = [checkpoint.load(outcome.best).state for outcome in (whole, resumed)]
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=0)
    assert len((tmp_path / "killed" / "log.csv").read_text().splitlines()) == 6


def test_patience_ends_a_run_that_gets_no_better(tmp_path: Path) -> None:
    scores = iter([0.5, 0.7, 0.6, 0.6, 0.9])
    outcome = run_fit(tmp_path, validation=lambda _: {"accuracy": next(scores)}, epochs=20, patience=2)
    assert (outcome.epochs, outcome.figures) == (4, {"accuracy": 0.7})


def test_a_budget_in_minutes_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = itertools.count()
    clock = SimpleNamespace(monotonic=lambda: float(next(calls)))  # each look at the clock finds it a second later
    monkeypatch.setattr("lesionnets.training.time", clock)
    outcome = run_fit(tmp_path, minutes=1, validate_every=1000)
    an_epoch = 20  # looks at the clock: two a step, and a few between
    assert 60 - 2 <= outcome.seconds < 60 + an_epoch
    assert outcome.epochs > 1
    assert outcome.best.is_file()


def test_resume_refuses_another_recipes_or_networks_run(tmp_path: Path) -> None:
    run_fit(tmp_path, epochs=1)
    model = UNet(channels=[8, 8])
    optimiser = torch.optim.AdamW(model.parameters())
    for recipe, message in (("other", "run of recipe 'test_recipe'"), ("test_recipe", "another network")):
        run = Run(recipe, "unet.UNet", {}, tmp_path, best_by="accuracy")
        with pytest.raises(UsageError, match=message):
            fit(model, loss_step, Brightness(), validate, run=run, optimiser=optimiser, epochs=2, resume=True)


def test_training_needs_a_budget(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="budget"):
        run_fit(tmp_path)


def test_the_learning_rate_rises_then_falls_to_nothing() -> None:
    rates = [one_cycle(step / 100) for step in range(101)]
    peak = rates.index(max(rates))
    assert rates[peak] == 1
    assert rates[:peak] == sorted(rates[:peak])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[0] > 0
    assert rates[-1] < 1e-6


def test_every_sample_comes_once_an_epoch() -> None:
    torch.manual_seed(0)
    batches = list(shuffled(13, 4))
    assert [len(batch) for batch in batches] == [4, 4, 4]
    assert len({int(i) for batch in batches for i in batch}) == 12
    assert [sorted(batch.tolist()) for batch in shuffled(3, 4)] == [[0, 1, 2]]
