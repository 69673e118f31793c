"""The training loop learns, keeps the best, stops in time, and continues after a kill as if nothing happened."""

from __future__ import annotations

import csv
import itertools
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dermbatch.errors import UsageError
from lesionnets import checkpoint
from lesionnets.data.prefetch import shuffled
from lesionnets.nets.segment.unet import UNet
from lesionnets.training import TrainingRun, fit, one_cycle, seed_everything
from tests.waiting import patience

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
    run = TrainingRun("test_recipe", "unet.UNet", HYPER, out, best_by="accuracy")
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


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path[:0] = {path!r}
from lesionnets import checkpoint, run_folder, training
from test_training import loss_step, run_fit, validate

def killing(function, count, *, after=False):
    calls = 0
    def called(*given, **named):
        nonlocal calls
        calls += 1
        if calls == count and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*given, **named)
        if calls == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return called

def save_half(count):
    save, calls = torch.save, 0
    def called(content, path):
        nonlocal calls
        calls += 1
        save(content, path)
        if calls == count:
            os.truncate(path, os.path.getsize(path) // 2)
            os.kill(os.getpid(), signal.SIGKILL)
    return called

out = Path({out!r})

def in_a_step(): run_fit(out / "in_a_step", loss=killing(loss_step, 15), epochs=4)
def in_a_validation(): run_fit(out / "in_a_validation", validation=killing(validate, 2), epochs=4)
def after_the_best():
    training._keep_best = killing(training._keep_best, 2, after=True)
    run_fit(out / "after_the_best", epochs=4)
def after_the_log():
    run_folder.RunFolder.write_log = killing(run_folder.RunFolder.write_log, 3, after=True)
    run_fit(out / "after_the_log", epochs=4)
def in_a_write():
    torch.save = save_half(4)
    run_fit(out / "in_a_write", epochs=4)
def while_stale():
    scores = iter([0.5, 0.4, 0.4, 0.4])
    validation = killing(lambda _: {{"accuracy": next(scores)}}, 4)
    run_fit(out / "while_stale", validation=validation, epochs=9, patience=3)

run_fit(out / "warm", epochs=1)  # what a first run has to load, its children need not
for run in (in_a_step, in_a_validation, after_the_best, after_the_log, in_a_write, while_stale):
    child = os.fork()
    if not child:
        run()
        os._exit(0)
    print(run.__name__, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_run_that_is_killed_at_any_moment_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
    told = subprocess.run(
        [sys.executable, "-c", KILLED.format(path=paths, out=str(tmp_path))],
        capture_output=True,
        text=True,
        check=True,
        timeout=patience(300),
    ).stdout
    ended = dict(line.split() for line in told.splitlines() if line.count(" ") == 1 and "-9" in line)
    names = ["in_a_step", "in_a_validation", "after_the_best", "after_the_log", "in_a_write"]
    assert list(ended) == [*names, "while_stale"], told
    whole = run_fit(tmp_path / "whole", epochs=4)
    expected = checkpoint.load(whole.best).state
    columns = ("epoch", "loss", "accuracy")
    log = [[row[name] for name in columns] for row in rows_of(tmp_path / "whole" / "log.csv")]
    for name in names:
        resumed = run_fit(tmp_path / name, epochs=4, resume=True)
        assert resumed.figures == whole.figures, name
        torch.testing.assert_close(checkpoint.load(resumed.best).state, expected, rtol=0, atol=0)
        assert [[row[key] for key in columns] for row in rows_of(tmp_path / name / "log.csv")] == log, name
    # Two validations without a better one before the kill, one after it: that is three.
    scores = iter([0.4, 0.9])
    stale = run_fit(
        tmp_path / "while_stale",
        validation=lambda _: {"accuracy": next(scores)},
        epochs=9,
        patience=3,
        resume=True,
    )
    assert (stale.epochs, stale.figures) == (4, {"accuracy": 0.5})


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_patience_ends_a_run_that_gets_no_better(tmp_path: Path) -> None:
    scores = iter([0.5, 0.7, 0.6, 0.6, 0.9])
    outcome = run_fit(tmp_path, validation=lambda _: {"accuracy": next(scores)}, epochs=20, patience=2)
    assert (outcome.epochs, outcome.figures) == (4, {"accuracy": 0.7})
    # It had ended: there is nothing to go on with.
    again = run_fit(tmp_path, validation=lambda _: {"accuracy": 1.0}, epochs=20, patience=2, resume=True)
    assert (again.epochs, again.figures) == (4, {"accuracy": 0.7})


@pytest.mark.parametrize("best", [0.0, math.nan])
def test_a_training_that_learned_nothing_says_so_unless_it_is_a_smoke_test(tmp_path: Path, best: float) -> None:
    def validation(_: nn.Module) -> dict[str, float]:
        return {"accuracy": best}

    with pytest.raises(UsageError, match=r"test_recipe has learned nothing: its accuracy is .*--seed"):
        run_fit(tmp_path / "whole", validation=validation, epochs=2, must_learn=True)
    assert run_fit(tmp_path / "smoke", validation=validation, epochs=2).best.is_file()


def test_a_figure_that_is_no_number_is_not_the_best(tmp_path: Path) -> None:
    scores = iter([math.nan, 0.5, math.nan, 0.4])
    outcome = run_fit(tmp_path, validation=lambda _: {"accuracy": next(scores)}, epochs=4, must_learn=True)
    assert outcome.figures == {"accuracy": 0.5}
    assert [row["accuracy"] for row in rows_of(tmp_path / "log.csv")] == ["nan", "0.5", "nan", "0.4"]


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
    for recipe, hyper, seed, message in (
        ("other", HYPER, 2017, "run of recipe 'test_recipe', not 'other'"),
        ("test_recipe", {"width": 0.5}, 2017, "run of hyper-parameters"),
        ("test_recipe", HYPER, 5, "run of seed 2017, not 5"),
        ("test_recipe", HYPER, 2017, "another network"),
    ):
        run = TrainingRun(recipe, "unet.UNet", hyper, tmp_path, best_by="accuracy")
        with pytest.raises(UsageError, match=message):
            fit(
                model,
                loss_step,
                Brightness(),
                validate,
                run=run,
                optimiser=optimiser,
                epochs=2,
                seed=seed,
                resume=True,
            )
    for content in (b"torn", (tmp_path / "best.pt").read_bytes()):
        (tmp_path / "last.pt").write_bytes(content)
        with pytest.raises(UsageError, match="train again without --resume"):
            run_fit(tmp_path, epochs=2, resume=True)


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
