"""Checkpoints: a trained network in one file, with what is needed to build it again and what it reached.

A checkpoint is a dictionary saved by :func:`torch.save` with the keys ``recipe`` (name), ``network`` (module and
class under ``lesionnets.nets``, such as ``unet.UNet``), ``hyper`` (the network's keyword arguments), ``state``
(its state dictionary) and ``figures`` (name to value on the validation images).
"""

from __future__ import annotations

import importlib
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dermbatch.errors import UsageError
from lesionnets import nets
from lesionnets.lookup import modules_below

UNREADABLE = (RuntimeError, pickle.UnpicklingError, EOFError, LookupError, ValueError, TypeError, OSError)
"""Errors that ``torch.load`` raises for a file that it did not write."""

_KINDS = {"recipe": str, "network": str, "hyper": dict, "state": dict, "figures": dict}


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint file."""

    recipe: str
    network: str
    hyper: dict[str, Any]
    state: dict[str, torch.Tensor]
    figures: dict[str, float]

    def build(self) -> nn.Module:
        """The network with its weights, on the CPU, in evaluation mode.

        Raises:
            UsageError: If the network is unknown or the weights belong to another one.
        """
        model = network(self.network, self.hyper)
        # Networks may add what their checkpoints leave out: an encoder that is never trained.
        completed = getattr(model, "completed", dict)
        try:
            model.load_state_dict(completed(self.state))
        except RuntimeError as error:
            raise UsageError(
                f"the checkpoint's weights do not fit its network {self.network!r}; train it again"
            ) from error
        return model.eval()


def name_of(network: type[nn.Module]) -> str:
    """The name of a network of ``lesionnets.nets`` in checkpoints, such as ``unet.UNet``."""
    return f"{network.__module__.rpartition('.')[2]}.{network.__name__}"


def network(name: str, hyper: dict[str, Any]) -> nn.Module:
    """Build a network of ``lesionnets.nets`` by its module and class, such as ``unet.UNet``.

    Raises:
        UsageError: If there is no such network, or it does not take these hyper-parameters.
    """
    module_name, _, class_name = name.partition(".")
    module = modules_below(nets).get(module_name)
    found = getattr(importlib.import_module(module), class_name, None) if module else None
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise UsageError(f"there is no network {name!r} in lesionnets.nets")
    try:
        return found(**hyper)
    except TypeError as error:
        raise UsageError(
            f"network {name!r} does not take the checkpoint's hyper-parameters: {sorted(hyper)}"
        ) from error


def save(
    path: Path,
    *,
    recipe: str,
    network: str,
    hyper: dict[str, Any],
    state: dict[str, torch.Tensor],
    figures: dict[str, float],
) -> None:
    """Write a checkpoint; the file is complete or does not exist."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().to("cpu").contiguous() for name, value in state.items()}
    write_whole(path, {"recipe": recipe, "network": network, "hyper": hyper, "state": state, "figures": figures})


def save_calibrated(path: Path, trained: Checkpoint, temperature: torch.Tensor, figures: dict[str, float]) -> None:
    """Rewrite a checkpoint with the temperature that was fitted to it, in its weights and among its figures."""
    save(
        path,
        recipe=trained.recipe,
        network=trained.network,
        hyper=trained.hyper,
        state=trained.state | {"temperature": temperature},
        figures=figures | {"temperature": float(temperature)},
    )


def write_whole(path: Path, content: object) -> None:
    """Save next to the target and rename, so that a kill never leaves half a file."""
    beside = path.with_name(path.name + ".part")
    torch.save(content, beside)
    beside.replace(path)


def load(path: Path, *, recipe: str | None = None) -> Checkpoint:
    """Read a checkpoint.

    Args:
        path: File written by :func:`save`.
        recipe: If given, the recipe that must have made it.

    Raises:
        UsageError: If the file is missing or is not a checkpoint, or if another recipe made it.
    """
    if not path.is_file():
        raise UsageError(f"there is no checkpoint {path}; `lesionnets train` writes one")
    try:
        # weights_only: a checkpoint from elsewhere must not be able to run code.
        content = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise UsageError(f"{path} is not a checkpoint of lesionnets") from error
    if (
        not isinstance(content, dict)
        or set(content) != set(_KINDS)
        or not all(isinstance(content[name], kind) for name, kind in _KINDS.items())
    ):
        raise UsageError(
            f"{path} is not a checkpoint of lesionnets; name the best.pt that `lesionnets train` wrote"
        )
    found = Checkpoint(**content)
    if recipe is not None and found.recipe != recipe:
        raise UsageError(f"{path} was made by recipe {found.recipe!r}, not by {recipe!r}")
    return found
