"""The stage contracts: the tensors that the served model of each stage takes and returns.

Shapes are without the batch dimension; -1 stands for any size. In a model's configuration ``H, W`` are either
fixed, and the worker resizes the image to them, or free: then it sends the image in its own proportions, reduced
to ``long_side``. Maps come back at the size that was sent.

What a model states besides its tensors, in ``parameters`` of its ``config.pbtxt`` (strings):

- ``sha256.<version>``: digest of the version's file: ``model.onnx``, or an ensemble's ``steps.txt``, which has its
  steps' digests. Required: it goes into records and stage keys.
- ``labels``: classes in the order of ``PROBABILITIES``, comma separated. Required for classify.
- ``support_model``: for a segment model that takes ``PROTOTYPES``: the model beside it, of the same version, that
  makes them from a support image and its mask (``IMAGE``, ``MASK`` -> ``PROTOTYPES``).
- ``threshold``: probability, 0 to 1, from which a pixel is lesion (segment) or occlusion (purify); 0.5.
- ``long_side``: if H, W are free: pixels to which the image's long side is reduced before it is sent; 1024.
- ``scale``: enhance: output over input resolution; 4.
- ``tile``, ``overlap``: enhance: most rows of the strips that a crop is cut into if H, W are free (256), and how
  many pixels neighbouring strips share (16): at least twice what the network sees around a pixel, to avoid seams.
- ``grid``: enhance: strips and tiles begin at multiples of so many pixels (1), for a network that sees pixels in
  groups. A fixed H or W must be a multiple of it, too.
- ``doubler``: enhance: the enhance model beside it, of the same version and of a smaller ``scale``, that is asked
  instead of it for crops that need no more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from dermbatch.stages import Stage

NUMBERS = ("threshold", "long_side", "scale", "tile", "overlap", "grid", "lesions")
"""Parameters that are numbers, if a model states them."""

DATA_TYPES = {"uint8": "TYPE_UINT8", "float32": "TYPE_FP32"}
"""Triton's names of types."""


@dataclass(frozen=True)
class Tensor:
    """One tensor of a contract.

    Attributes:
        name: Its name.
        dims: Its shape without the batch dimension; -1 if any size will do.
        dtype: Numpy's name of its type.
        optional: Whether a model may leave it out.
    """

    name: str
    dims: tuple[int, ...]
    dtype: Literal["uint8", "float32"] = "uint8"
    optional: bool = False


@dataclass(frozen=True)
class Contract:
    """What a stage, or one model of a stage, takes and returns.

    Attributes:
        inputs: All but ``PROTOTYPES`` with height and width first.
        outputs: Of any shape.
        parameters: What a model states besides its tensors.
    """

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    parameters: Mapping[str, str] = field(default_factory=dict)


IMAGE = Tensor("IMAGE", (-1, -1, 3))
"""The picture, RGB, 0 to 255: every stage's first input."""

LESION = Tensor("LESION", (-1, -1))
"""Where the lesion is: probability x 255, or 255 and 0."""

BORDER = Tensor("BORDER", (-1, -1), optional=True)
"""The lesion as the output that judges borders sees it: probability x 255."""

PROTOTYPES = Tensor("PROTOTYPES", (-1,), "float32", optional=True)
"""What a support looks like, for a segment model that is shown one; the mean over several."""

MASK = Tensor("MASK", (-1, -1))
"""What a person drew on a support: lesion where it is not 0."""

SUPPORT_MODEL = "support_model"
"""Parameter naming the model that makes a support's prototypes."""

DOUBLER = "doubler"
"""Parameter naming the model that enlarges less, for less work."""

DISTANCE = Tensor("DISTANCE", (1,), "float32", optional=True)
"""How far a picture's embedding is from those of dermoscopic images, as a share of the limit: above 1 the picture
is not one of them, and gets no diagnosis."""

VISUALBACKPROP = Tensor("VISUALBACKPROP", (-1, -1), optional=True)
"""What the classifier's convolutions responded to across the whole picture, whatever the diagnosis."""

PATTERNS = Tensor("PATTERNS", (-1, -1, -1), "float32", optional=True)
"""Local descriptors over the whole picture, [h, w, K], in sizes that the model chooses. A place's direction is its
look, so a cosine compares two places; its length is how much it counts, for being lesion and for what it added to
the most probable diagnosis. Lengths sum to 1; outside the square that the model was shown they are 0."""

CONTRACTS: dict[Stage, Contract] = {
    Stage.PURIFY: Contract(
        inputs=(IMAGE,),
        outputs=(Tensor("PURIFIED", (-1, -1, 3)), Tensor("OCCLUSION", (-1, -1))),
    ),
    Stage.SEGMENT: Contract(
        inputs=(IMAGE, PROTOTYPES),
        outputs=(LESION, BORDER),
    ),
    Stage.ENHANCE: Contract(inputs=(IMAGE,), outputs=(Tensor("ENHANCED", (-1, -1, 3)),)),
    Stage.CLASSIFY: Contract(
        inputs=(IMAGE, LESION),
        outputs=(
            Tensor("PROBABILITIES", (-1,), "float32"),
            Tensor("EMBEDDING", (-1,), "float32"),
            Tensor("SALIENCY", (-1, -1)),
            DISTANCE,
            VISUALBACKPROP,
            PATTERNS,
        ),
    ),
}

ENCODES_SUPPORT = Contract(inputs=(IMAGE, MASK), outputs=(Tensor("PROTOTYPES", (-1,), "float32"),))
"""Contract of the model that makes a support's prototypes; it serves no stage."""

SCALE = 4
"""Output over input resolution of enhance models that do not state it."""

SCALED = frozenset({"ENHANCED"})
"""Outputs that are ``scale`` times as high and wide as ``IMAGE``; other maps have its size."""
