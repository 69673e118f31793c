"""Convolutions that learn to be computed in bytes.

Quantisation-aware training (Jacob et al., "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", CVPR 2018, section 3; https://arxiv.org/abs/1712.05877): in training values and
weights are rounded as :func:`lesionnets.graphs.precision.to_int8` will round them, and gradients pass the rounding
as if it were not there. What is learnt are float32 weights, as of any other network.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

WEIGHT_LEVELS = 64
"""On either side of zero: 7 bits. Two products with a byte, 2 x 255 x 64, then fit into 16 bits, where processors
without VNNI add them up with saturation (``vpmaddubsw``)."""
_VALUE_LEVELS = 255
BEYOND = 1e-4
"""Share of the values on either side that a range leaves out: a few of noisy pictures are several times the
others, and steps that reached them would be too wide for all."""
_LOOKED_AT = 50_000
"""Values of a batch that its range is found by."""
_KEPT = 0.99
"""Of the ranges of batches before, a step."""
_LEAST = 1e-8


class ByteConv2d(nn.Conv2d):
    """A convolution in float32, or rounded to bytes where it :func:`learns <learn_bytes>` that.

    Shape:
        float [N, inputs, H, W] -> float [N, outputs, H, W].

    Args:
        inputs: Channels.
        outputs: Channels.
        size: Side of the kernel, odd; borders are padded with zeros.
        rectified: A ReLU follows: what it gives is rounded by the next convolution, its input is not.
        framed: What goes in has a frame already: no zeros are padded, and the frame is lost.
    """

    ranges: Tensor
    """Lowest and highest value that went in, and that came out; float32 [2, 2]."""

    def __init__(
        self, inputs: int, outputs: int, size: int, *, rectified: bool = False, framed: bool = False
    ) -> None:
        super().__init__(inputs, outputs, size, padding=0 if framed else size // 2)
        self.in_bytes, self._rectified = False, rectified
        self.register_buffer("ranges", torch.zeros(2, 2))

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        if not self.in_bytes:
            return super().forward(x)
        y = self._conv_forward(self._rounded(x, 0), _rounded_weights(self.weight), self.bias)
        return y if self._rectified else self._rounded(y, 1)

    def _rounded(self, x: Tensor, which: int) -> Tensor:
        if self.training:
            with torch.no_grad():
                seen, found = self.ranges[which], _range(x)
                self.ranges[which] = torch.lerp(found, seen, _KEPT) if seen.any() else found
        low, high = self.ranges[which]
        step = ((high - low) / _VALUE_LEVELS).clamp(min=_LEAST)
        zero = (-low / step).round().clamp(0, _VALUE_LEVELS).to(torch.int32)
        return torch.fake_quantize_per_tensor_affine(x, step, zero, 0, _VALUE_LEVELS)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Weights of a network that did not learn this have no ranges."""
        state_dict.setdefault(f"{prefix}ranges", self.ranges)
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _range(x: Tensor) -> Tensor:
    """Lowest and highest value except for ``BEYOND``, and zero; float32 [2]."""
    values = x.flatten()[:: max(x.numel() // _LOOKED_AT, 1)]
    count = int(BEYOND * len(values)) + 1
    low, high = -(-values).topk(count).values[-1], values.topk(count).values[-1]
    return torch.stack([low.clamp(max=0), high.clamp(min=0)])


def _rounded_weights(weight: Tensor) -> Tensor:
    """Of each output channel in steps of its own."""
    steps = (weight.detach().abs().amax(dim=(1, 2, 3)) / WEIGHT_LEVELS).clamp(min=_LEAST)
    zeros = torch.zeros_like(steps, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, steps, zeros, 0, -WEIGHT_LEVELS, WEIGHT_LEVELS)


def learn_bytes(model: nn.Module) -> None:
    """Have a network's :class:`ByteConv2d` be computed in bytes from now on, in training and evaluation."""
    for module in model.modules():
        if isinstance(module, ByteConv2d):
            module.in_bytes = True
