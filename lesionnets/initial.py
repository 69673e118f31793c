"""Weights to start training from: those of a checkpoint, or of the ONNX file that is served.

In a served file, batch norm is folded into the convolution before it. The scale and mean that it had learned
cannot be recovered, but they are not needed: any mean and scale can be taken out of the folded weights again.
Those of the training images are used, so that the network returns the same in training and in service.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, Self, runtime_checkable

import torch
from google.protobuf.message import DecodeError
from torch import Tensor, nn

from dermbatch.errors import UsageError
from lesionnets import checkpoint
from lesionnets.nets.enhance.plain import PlainEnhancer

_WITHIN = re.compile(r"net\.|network\.|part\d+/")  # names within graphs that wrap a network or join parts
_FOLDED = ".weight_bias"  # what the exporter calls the bias that a folded batch norm has become


@runtime_checkable
class Narrowing(Protocol):
    """A network that can start from a wider one of its kind."""

    def wider(self, state: Mapping[str, Tensor], /) -> Self | None:
        """A network as wide as these weights; None if they are as wide as this one or of another network."""

    def narrow_from(self, wide: Self, /) -> None:
        """Copy the strongest channels of a wider, trained network."""


def begin_from(model: nn.Module, weights: Path, see: Callable[[nn.Module], object]) -> None:
    """Load the weights of a trained network into a network.

    All parameters must be there, or those of a wider network if it can be narrowed. Buffers are loaded if they are
    there, except numbers that are fitted after training (temperature, bias), which are fitted again.

    Args:
        model: The network to fill: the same as the trained one, or a narrower one of its kind.
        weights: ``best.pt``, ``model.onnx``, or a folder: a run's, or a served model's (its newest version).
        see: Runs a network on some of the images that it will be trained on.

    Raises:
        UsageError: If there are no weights, or they are those of another network, or their branches were merged
            for service.
    """
    path = _file(weights)
    if path.suffix == ".onnx" and isinstance(model, PlainEnhancer):
        raise UsageError(f"{path} has its branches merged; start from the checkpoint that it was made from")
    found = _served(path) if path.suffix == ".onnx" else checkpoint.load(path).state
    wide = model.wider(found) if isinstance(model, Narrowing) else None
    _take(model if wide is None else wide, found, path, see)
    if wide is not None and isinstance(model, Narrowing):
        model.narrow_from(wide)


def _take(model: nn.Module, found: dict[str, Tensor], path: Path, see: Callable[[nn.Module], object]) -> None:
    norms = dict(_unfolded(model, found))
    _load(model, found, path)
    if norms:
        with _measuring(norms):
            model.eval()
            with torch.no_grad():
                see(model)


def _file(weights: Path) -> Path:
    """The file that a path stands for."""
    served = sorted(weights.glob("[0-9]*/model.onnx"), key=lambda path: int(path.parent.name))
    return (served[-1] if served else weights / "best.pt") if weights.is_dir() else weights


def _load(model: nn.Module, found: dict[str, Tensor], path: Path) -> None:
    own, needed = model.state_dict(), {name for name, _ in model.named_parameters()}
    fitted = {name for name, value in own.items() if value.ndim == 0 and value.is_floating_point()}
    fitting = {name: value for name, value in found.items() if name in own and value.shape == own[name].shape}
    if missing := sorted(needed - set(fitting)):
        raise UsageError(
            f"{path} does not have the weights of this network: {len(missing)} of {len(needed)} are missing or of "
            f"another size, {missing[0]} for one"
        )
    model.load_state_dict(own | {name: value for name, value in fitting.items() if name not in fitted})


def _served(path: Path) -> dict[str, Tensor]:
    """The weights in an ONNX file written by `lesionnets export`, by the network's own names."""
    import onnx  # noqa: PLC0415 - who trains from scratch does not wait for it

    try:
        graph = onnx.load(path).graph
    except (OSError, ValueError, DecodeError) as error:
        raise UsageError(f"{path} cannot be read as an ONNX file") from error
    named = ((one.name.removesuffix("/half"), onnx.numpy_helper.to_array(one)) for one in graph.initializer)
    return {
        _WITHIN.sub("", name): torch.from_numpy(values.copy()).float()
        for name, values in named
        if _WITHIN.match(name)
    }


def _unfolded(model: nn.Module, found: dict[str, Tensor]) -> Iterator[tuple[str, nn.BatchNorm2d]]:
    """The batch norms folded in a served file; adds their weights, for mean 0 and variance 1, to ``found``."""
    for name in [name for name in found if name.endswith(_FOLDED)]:
        convolution = name.removesuffix(_FOLDED)
        parent, _, number = convolution.rpartition(".")
        norm = f"{parent}.{int(number) + 1}" if number.isdecimal() else ""
        module = dict(model.named_modules()).get(norm)
        if isinstance(module, nn.BatchNorm2d):
            shift = found.pop(name)
            found[f"{norm}.bias"] = shift
            found[f"{norm}.weight"] = torch.full_like(shift, (1 + module.eps) ** 0.5)
            found[f"{norm}.running_mean"] = torch.zeros_like(shift)
            found[f"{norm}.running_var"] = torch.ones_like(shift)
            yield norm, module


@contextmanager
def _measuring(norms: dict[str, nn.BatchNorm2d]) -> Iterator[None]:
    """Within this context batch norms record their inputs; at its end they adopt the mean and variance of these.

    Their outputs stay the same: what they now subtract and divide by is added and multiplied again.
    """
    given: dict[str, list[Tensor]] = {name: [] for name in norms}

    def noting(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _, values: given[name].append(_moments(values[0].detach().float()))

    hooks = [norm.register_forward_pre_hook(noting(name)) for name, norm in norms.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
    for name, norm in norms.items():
        if given[name]:
            mean, square = torch.stack(given[name]).mean(dim=0)
            _set(norm, mean, (square - mean.square()).clamp(min=0))


def _moments(values: Tensor) -> Tensor:
    """Mean and mean square of each channel of values [N, C, h, w]: [2, C]."""
    return torch.stack([values.mean(dim=(0, 2, 3)), values.square().mean(dim=(0, 2, 3))])


@torch.no_grad()
def _set(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor) -> None:
    assert norm.running_mean is not None  # noqa: S101 - as they are made
    assert norm.running_var is not None  # noqa: S101
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    norm.bias.add_((mean - norm.running_mean) * scale)
    norm.weight.copy_(scale * (variance + norm.eps).sqrt())
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)
