"""The training loop of all recipes: seeded, resumable after a kill, in bfloat16, with averaged weights.

A recipe hands in the network, a loss, batches and a validation; ``fit`` writes into the run's folder

- ``best.pt``: the checkpoint (see :mod:`lesionnets.checkpoint`) with the best validation figure so far,
- ``last.pt``: everything that is needed to continue after a kill,
- ``log.csv``: one line for each validation, with the loss of the epoch before it

(see :mod:`lesionnets.run_folder`).
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dermbatch.errors import UsageError
from lesionnets import checkpoint
from lesionnets.initial import begin_from
from lesionnets.run_folder import RunFolder, State

_SEEN = 8  # batches by which folded batch norms are measured

Batch = Any
"""A tensor, or a tuple, list or dictionary of tensors, which a loader yields and a loss takes."""


class Stateful(Protocol):
    """Something that learns and must continue after a kill: network, average, optimiser, discriminator."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that is needed to continue."""

    def load_state_dict(self, state: Any, /) -> Any:
        """Restore what :meth:`state_dict` returned."""


class Loader(Protocol):
    """The batches of one epoch, random by torch's or NumPy's global generators, which are seeded."""

    def __iter__(self) -> Any: ...

    def __len__(self) -> int: ...


class Learning(StrEnum):
    """What a few-shot network learns from: the rows of table 1 of CD-FSS."""

    ALTERNATE = "alternate"
    NATURAL = "natural"
    SKIN = "skin"
    PLAIN = "plain"


@dataclass(frozen=True)
class RecipeOptions:
    """What ``lesionnets train`` hands to a recipe's ``train(options) -> Path``.

    Attributes:
        out: Folder of the run.
        data: Folder in the layout of ``docs/data.md``; recipes that draw their own data need none.
        minutes: Budget in minutes for training itself; None: the recipe's own.
        smoke: Train for seconds on a handful of images, to test that everything is in place.
        resume: Continue from ``last.pt``.
        seed: Seed of everything random.
        width: Share of the paper's width, above 0; None: the recipe's own.
        patience: Number of validations without a better figure after which training ends; None: the recipe's own.
        leave_out: Source that is measured on instead of trained on (:mod:`lesionnets.data.sources.folds`).
        init: Weights to start from (:func:`lesionnets.initial.begin_from`).
        unseen: Diagnosis that is measured on instead of trained on; for few-shot recipes.
        learning: What few-shot recipes learn from.
        epochs: Budget in epochs instead of minutes: the same work, however busy the machine is.
        diagnosis: The diagnosis that is learned; for recipes that learn only one.
        size: Side in pixels of the pictures that a generator makes; None: the recipe's own.
    """

    out: Path
    data: Path | None = None
    minutes: float | None = None
    smoke: bool = False
    resume: bool = False
    seed: int = 2017
    width: float | None = None
    patience: int | None = None
    leave_out: int | None = None
    init: Path | None = None
    unseen: str | None = None
    learning: Learning = Learning.ALTERNATE
    epochs: int | None = None
    diagnosis: str | None = None
    size: int | None = None

    def width_or(self, on_cpu: float, *, smoke: float = 0.125) -> float:
        """Share of the paper's width: the one asked for, otherwise 1.0 on a GPU and ``on_cpu`` elsewhere.

        Args:
            on_cpu: The width that two processor cores can train in the recipe's own minutes.
            smoke: The width of a smoke test, wherever it runs.
        """
        if self.width is not None:
            return self.width
        if self.smoke:
            return smoke
        return 1.0 if device().type == "cuda" else on_cpu

    def limits(self, minutes: float, patience: int, *, smoke: int = 1) -> dict[str, Any]:
        """The arguments of :func:`fit` that limit it, and its initial weights.

        Args:
            minutes: The recipe's own.
            patience: The recipe's own.
            smoke: Number of epochs of a smoke test.
        """
        return {
            "epochs": smoke if self.smoke else self.epochs,
            "minutes": None if self.smoke or (self.epochs and not self.minutes) else self.minutes or minutes,
            "patience": self.patience or patience,
            "seed": self.seed,
            "resume": self.resume,
            "init": self.init,
            "must_learn": not self.smoke,
        }

    def data_folder(self) -> Path:
        """The data folder.

        Raises:
            UsageError: If none was given or it does not exist.
        """
        if self.data is None:
            raise UsageError("this recipe needs images: name their folder with --data DIR")
        if not self.data.is_dir():
            raise UsageError(f"there is no data folder {self.data}")
        return self.data


@dataclass(frozen=True)
class TrainingRun:
    """What is trained, where it is written, and by which figure the best checkpoint is chosen."""

    recipe: str
    network: str
    hyper: dict[str, Any]
    out_dir: Path
    best_by: str
    """Name of the validation figure; higher is better."""


@dataclass(frozen=True)
class Trained:
    """The result of training."""

    best: Path
    figures: dict[str, float]
    epochs: int
    seconds: float


def device() -> torch.device:
    """The GPU if there is one, otherwise the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast(where: torch.device) -> torch.autocast:
    """Arithmetic in bfloat16 if the hardware has it, otherwise in float32."""
    has_bfloat16 = torch.cuda.is_bf16_supported() if where.type == "cuda" else _cpu_has_bfloat16()
    return torch.autocast(where.type, dtype=torch.bfloat16, enabled=has_bfloat16)


def _cpu_has_bfloat16() -> bool:
    has_onednn = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return bool(has_onednn and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's generators."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def one_cycle(progress: float, *, warm_up: float = 0.05) -> float:
    """Learning rate as a share of its peak: linear up over ``warm_up``, then a half cosine down to 0.

    ``progress`` runs from 0 to 1 over training, so a budget in minutes and one in epochs give the same shape.
    """
    progress = min(max(progress, 0.0), 1.0)
    if progress < warm_up:
        return max(progress / warm_up, 0.02)
    return 0.5 * (1 + math.cos(math.pi * (progress - warm_up) / (1 - warm_up)))


def to_device(batch: Batch, where: torch.device) -> Batch:
    """Move every tensor of a batch to a device; images (4-D) become channels-last, which is faster."""
    if isinstance(batch, Tensor):
        layout = torch.channels_last if batch.ndim == 4 else torch.preserve_format
        return batch.to(where, non_blocking=True, memory_format=layout)
    if isinstance(batch, Mapping):
        return {name: to_device(value, where) for name, value in batch.items()}
    return tuple(to_device(value, where) for value in batch)


def fit(
    model: nn.Module,
    loss_step: Callable[[nn.Module, Batch], Tensor],
    train_loader: Loader,
    validate: Callable[[nn.Module], dict[str, float]],
    *,
    run: TrainingRun,
    optimiser: torch.optim.Optimizer,
    epochs: int | None = None,
    minutes: float | None = None,
    validate_every: int = 1,
    patience: int | None = None,
    ema_decay: float | None = 0.99,
    seed: int = 2017,
    resume: bool = False,
    clip_norm: float = 1.0,
    companion: Stateful | None = None,
    init: Path | None = None,
    must_learn: bool = False,
) -> Trained:
    """Train until the epochs or minutes are spent, and keep the best checkpoint.

    Each epoch is seeded with ``seed + epoch``, and training continues with the epoch after the last finished one.
    So a run that was killed and resumed sees the same batches as one that was not. With a budget in epochs its
    weights are the same, too; a budget in minutes sets learning rates by the clock, which differs between runs.

    Args:
        model: The network; it is moved to the GPU if there is one, and into the channels-last layout.
        loss_step: Returns the scalar loss of a network and a batch; called under autocast.
        train_loader: Batches of an epoch.
        validate: Returns figures by name; called with the (averaged) network in evaluation mode.
        run: What is trained and where it is written.
        optimiser: Optimiser of the model's parameters; its learning rates are the peaks of :func:`one_cycle`.
        epochs: Budget in epochs.
        minutes: Budget in minutes of wall-clock time, for this and all resumed runs together. Give either or both.
        validate_every: Number of epochs between validations; the last epoch is always validated.
        patience: Number of validations without a better figure after which training stops.
        ema_decay: Decay per step of the moving average of the weights, which is validated and kept.
        seed: Seed of everything random.
        resume: Continue from ``last.pt`` if there is one.
        clip_norm: Largest norm of the gradients; they are scaled down to it.
        companion: Something else that ``loss_step`` trains; its state is kept in ``last.pt``.
        init: Weights to start from instead of the model's own.
        must_learn: Refuse a training whose best figure is 0 or not a number.

    Returns:
        Path and figures of the best checkpoint.

    Raises:
        UsageError: If neither epochs nor minutes are given, ``last.pt`` cannot be read or belongs to another run,
            or the weights to start from are those of another network, or nothing was learned.
    """
    if epochs is None and minutes is None:
        raise UsageError("training needs a budget: epochs or minutes")
    where = device()
    model.to(where)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if init is not None and not (resume and RunFolder(run.out_dir).last.exists()):
        begin_from(model, init, lambda network: _see(network, loss_step, train_loader, seed))
    decay = get_ema_multi_avg_fn(ema_decay or 0.0)  # type: ignore[no-untyped-call]
    average = AveragedModel(model, multi_avg_fn=decay, use_buffers=True)
    peaks = [group["lr"] for group in optimiser.param_groups]
    folder = RunFolder(run.out_dir)
    told = {"recipe": run.recipe, "network": run.network, "hyper-parameters": run.hyper, "seed": seed}
    parts: dict[str, Stateful] = {"model": model, "average": average, "optimiser": optimiser}
    if companion is not None:
        parts["companion"] = companion
    state = _resume(folder, told, parts, where) if resume else None
    if state is None:
        state = State()
        folder.begin()
    started = time.monotonic() - state.seconds

    def progress_at(step: int) -> float:
        by_time = (time.monotonic() - started) / (60 * minutes) if minutes else 0.0
        by_epoch = (state.epoch + step / len(train_loader)) / epochs if epochs else 0.0
        return max(by_time, by_epoch)

    with _bar() as bar:
        task = bar.add_task(run.recipe, total=1.0, figure="")
        while progress_at(0) < 1.0 and (patience is None or state.stale < patience):
            # Seeded at the start of each epoch, so no generator's state has to be saved for an exact resume.
            seed_everything(seed + state.epoch)
            model.train()
            losses: list[Tensor] = []
            for step, raw_batch in enumerate(train_loader):
                _set_rates(optimiser, peaks, one_cycle(progress_at(step)))
                batch = to_device(raw_batch, where)
                losses.append(_step(model, average, loss_step, batch, optimiser, clip_norm=clip_norm))
                bar.update(task, completed=min(progress_at(step + 1), 1.0))
            state.epoch += 1
            state.seconds = time.monotonic() - started
            if state.epoch % validate_every == 0 or progress_at(0) >= 1.0:
                average.module.eval()
                with torch.inference_mode(), autocast(where):
                    figures = validate(average.module)
                _keep_best(run, average.module, state, figures)
                bar.update(task, figure=f"{run.best_by} {figures[run.best_by]:.4f} (best {state.best:.4f})")
                folder.write_log(_row(state, float(torch.stack(losses).mean()), figures))
            folder.save(state, told, {name: part.state_dict() for name, part in parts.items()})
    if must_learn and not abs(state.best) > 0:
        raise UsageError(
            f"{run.recipe} has learned nothing: its {run.best_by} is {state.best}; train again with another --seed"
        )
    return Trained(folder.best, state.best_figures, state.epoch, state.seconds)


def _see(
    model: nn.Module, loss_step: Callable[[nn.Module, Batch], Tensor], train_loader: Loader, seed: int
) -> None:
    """Run a network on a few batches without learning from them."""
    where = next(model.parameters()).device
    seed_everything(seed)
    for raw_batch in islice(train_loader, _SEEN):
        loss_step(model, to_device(raw_batch, where))


def _step(
    model: nn.Module,
    average: AveragedModel,
    loss_step: Callable[[nn.Module, Batch], Tensor],
    batch: Batch,
    optimiser: torch.optim.Optimizer,
    *,
    clip_norm: float,
) -> Tensor:
    """One step. The loss stays on its device, because fetching it would wait for the GPU."""
    where = next(model.parameters()).device
    optimiser.zero_grad(set_to_none=True)
    with autocast(where):
        loss = loss_step(model, batch)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    optimiser.step()
    average.update_parameters(model)
    return loss.detach()


def _set_rates(optimiser: torch.optim.Optimizer, peaks: list[float], share: float) -> None:
    for group, peak in zip(optimiser.param_groups, peaks, strict=True):
        group["lr"] = peak * share


def _keep_best(run: TrainingRun, model: nn.Module, state: State, figures: dict[str, float]) -> None:
    if state.best_figures and not (figures[run.best_by] > state.best or math.isnan(state.best)):
        state.stale += 1
        return
    state.stale = 0
    state.best, state.best_figures = figures[run.best_by], figures
    checkpoint.save(
        RunFolder(run.out_dir).best,
        recipe=run.recipe,
        network=run.network,
        hyper=run.hyper,
        state=model.state_dict(),
        figures=figures,
    )


def _resume(
    folder: RunFolder, told: dict[str, Any], parts: dict[str, Stateful], where: torch.device
) -> State | None:
    """The state of the folder's run, with its weights loaded; None if there is nothing to continue from."""
    found = folder.load(told, where)
    if found is None:
        return None
    state, saved = found
    try:
        for name, part in parts.items():
            part.load_state_dict(saved[name])
    except (RuntimeError, ValueError, KeyError) as error:
        raise UsageError(
            f"{folder.last} belongs to another network; choose another --out or drop --resume"
        ) from error
    return state


def _row(state: State, loss: float, figures: Mapping[str, float]) -> dict[str, float]:
    row = {"epoch": state.epoch, "seconds": round(state.seconds, 1), "loss": round(loss, 5)}
    return row | {name: round(value, 5) for name, value in figures.items()}


def _bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figure]}"),
    )
