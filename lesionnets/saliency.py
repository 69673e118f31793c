"""Where a classifier looked: VisualBackProp, for any classifier, whose inner layers are read while it runs.

Classifiers of ``lesionnets.nets`` name the layers that it reads in their property ``stages``. They return their
class activation maps themselves.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from lesionnets.nets.sizes import resized


def visual_backprop(classifier: nn.Module, inputs: Sequence[Tensor], stages: Sequence[nn.Module]) -> Tensor:
    """VisualBackProp (Bojarski et al. 2016, arXiv 1611.05418, fig. 2): what the convolutions responded to.

    The channels of each stage are averaged. Starting with the deepest, the average is enlarged to the size of the
    next shallower one and multiplied with it, so what only one of them saw vanishes. The paper enlarges with a
    transposed convolution of ones, which repeats pixels; here it is bilinear, which leaves no blocks.

    Args:
        classifier: Best in evaluation mode.
        inputs: Its inputs, the image first, float [N, C, H, W].
        stages: Layers to read, shallow first, with outputs [N, c, h, w] after a ReLU; each must run once in a
            pass.

    Returns:
        Float [N, 1, H, W], scaled from 0 to 1 for each image; all zeros if it is flat.

    Raises:
        ValueError: If there are no stages or one did not run.
    """
    with torch.no_grad(), _read(stages) as outputs:
        classifier(*inputs)
        found = _all_of(stages, outputs)
    mask: Tensor | None = None
    for maps in reversed(found):
        mean = maps.float().mean(dim=1, keepdim=True)
        mask = mean if mask is None else resized(mask, mean) * mean
        # A product of many small numbers would vanish in float32; a factor changes nothing after normalisation.
        mask = mask / mask.amax(dim=(2, 3), keepdim=True).clamp(min=1e-30)
    if mask is None:
        raise ValueError("VisualBackProp needs at least one stage")
    mask = resized(mask, inputs[0])
    mask = mask - mask.amin(dim=(2, 3), keepdim=True)
    return mask / mask.amax(dim=(2, 3), keepdim=True).clamp(min=1e-12)


@contextlib.contextmanager
def _read(layers: Sequence[nn.Module]) -> Iterator[dict[int, Tensor]]:
    """Record the outputs of layers while a network runs, by their indices in the sequence."""
    outputs: dict[int, Tensor] = {}

    def keep(place: int, output: Tensor) -> Tensor:
        outputs[place] = output
        # A copy goes on, as the next layer may change what it is given.
        return output.clone()

    handles = [
        layer.register_forward_hook(lambda _, __, output, place=place: keep(place, output))
        for place, layer in enumerate(layers)
    ]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def _all_of(layers: Sequence[nn.Module], outputs: dict[int, Tensor]) -> list[Tensor]:
    if len(outputs) != len(layers):
        missing = sorted(set(range(len(layers))) - set(outputs))
        raise ValueError(f"the classifier did not run these of the given layers: {missing}")
    return [outputs[place] for place in range(len(layers))]
