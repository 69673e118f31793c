"""The stage contracts: the tensors that a served model of each stage takes and gives.

Shapes are without the batch dimension; ``None`` stands for any size. In a model's configuration ``H, W`` are
fixed, and the worker brings the image to that size, or free (-1): then it sends the image as it is, reduced to
``long_side``. Maps come back at the size that was sent.

What a model says beside its tensors, in ``parameters`` of its ``config.pbtxt`` (strings):

- ``sha256.<version>``: digest of the version's file: ``model.onnx``, or an ensemble's ``steps.txt``, which has its
  steps' digests. Needed: it goes into records and stage keys.
- ``labels``: classes in the order of ``PROBABILITIES``, comma separated. Needed for classify.
- ``threshold``: probability, 0 to 1, from which a pixel is lesion (segment) or occlusion (purify); 0.5.
- ``long_side``: where H, W are free: pixels to which the image's long side is reduced before it is sent; 1024.
- ``scale``: enhance: output over input resolution; 4.
- ``tile``, ``overlap``: enhance: side of the tiles that a larger crop is cut into where H, W are free (256), and
  how many pixels neighbours share (16): at least twice what the network sees around a pixel, for no seams.
"""

from __future__ import annotations

from dataclasses import dataclass

from dermbatch.stages import Stage


@dataclass(frozen=True)
class Tensor:
    """One tensor of a contract.

    Attributes:
        name: Its name.
        dtype: Numpy's name of its type.
        dims: Its shape without the batch dimension; ``None`` where any size will do.
        optional: A model may leave it out.
    """

    name: str
    dtype: str
    dims: tuple[int | None, ...]
    optional: bool = False


@dataclass(frozen=True)
class Contract:
    """What a model of one stage takes and gives."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


_IMAGE = Tensor("IMAGE", "uint8", (None, None, 3))

CONTRACTS: dict[Stage, Contract] = {
    Stage.PURIFY: Contract(
        inputs=(_IMAGE,),
        outputs=(Tensor("PURIFIED", "uint8", (None, None, 3)), Tensor("OCCLUSION", "uint8", (None, None))),
    ),
    Stage.SEGMENT: Contract(
        inputs=(_IMAGE,),
        outputs=(
            Tensor("LESION", "uint8", (None, None)),
            Tensor("BORDER", "uint8", (None, None), optional=True),
        ),
    ),
    Stage.ENHANCE: Contract(inputs=(_IMAGE,), outputs=(Tensor("ENHANCED", "uint8", (None, None, 3)),)),
    Stage.CLASSIFY: Contract(
        inputs=(_IMAGE, Tensor("LESION", "uint8", (None, None))),
        outputs=(
            Tensor("PROBABILITIES", "float32", (None,)),
            Tensor("EMBEDDING", "float32", (None,)),
            Tensor("SALIENCY", "uint8", (None, None)),
        ),
    ),
}

SCALE = 4
"""Output over input resolution of enhance models that do not say."""

SCALED = frozenset({"ENHANCED"})
"""Outputs that are ``scale`` times as high and wide as ``IMAGE``; other maps are of its size."""
