"""The stage contracts: the tensors that a served model of each stage takes and gives.

Shapes are without the batch dimension; -1 stands for any size. In a model's configuration ``H, W`` are fixed, and
the worker brings the image to that size, or free: then it sends the image as it is, reduced to ``long_side``. Maps
come back at the size that was sent.

What a model says beside its tensors, in ``parameters`` of its ``config.pbtxt`` (strings):

- ``sha256.<version>``: digest of the version's file: ``model.onnx``, or an ensemble's ``steps.txt``, which has its
  steps' digests. Needed: it goes into records and stage keys.
- ``labels``: classes in the order of ``PROBABILITIES``, comma separated. Needed for classify.
- ``support_model``: of a segment model that takes ``PROTOTYPES``: the model beside it, of the same version, that
  makes them of a support image and its mask (``IMAGE``, ``MASK`` -> ``PROTOTYPES``).
- ``threshold``: probability, 0 to 1, from which a pixel is lesion (segment) or occlusion (purify); 0.5.
- ``long_side``: where H, W are free: pixels to which the image's long side is reduced before it is sent; 1024.
- ``scale``: enhance: output over input resolution; 4.
- ``tile``, ``overlap``: enhance: most rows of the strips that a crop is cut into where H, W are free (256), and
  how many pixels neighbours share (16): at least twice what the network sees around a pixel, for no seams.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from dermbatch.stages import Stage

DATA_TYPES = {"uint8": "TYPE_UINT8", "float32": "TYPE_FP32"}
"""Triton's names of types."""


@dataclass(frozen=True)
class Tensor:
    """One tensor of a contract.

    Attributes:
        name: Its name.
        dims: Its shape without the batch dimension; -1 where any size will do.
        dtype: Numpy's name of its type.
        optional: A model may leave it out.
    """

    name: str
    dims: tuple[int, ...]
    dtype: Literal["uint8", "float32"] = "uint8"
    optional: bool = False


@dataclass(frozen=True)
class Contract:
    """What a stage, or one model of it, takes and gives.

    Attributes:
        inputs: All but ``PROTOTYPES`` with height and width first.
        outputs: Of any shape.
        parameters: What a model says beside its tensors.
    """

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    parameters: Mapping[str, str] = field(default_factory=dict)


IMAGE = Tensor("IMAGE", (-1, -1, 3))
"""The picture, RGB, 0 to 255: every stage's first input."""

LESION = Tensor("LESION", (-1, -1))
"""Where the lesion is: probability x 255, or 255 and 0."""

BORDER = Tensor("BORDER", (-1, -1), optional=True)
"""The lesion by what tells borders: probability x 255."""

PROTOTYPES = Tensor("PROTOTYPES", (-1,), "float32", optional=True)
"""What a support looks like: of a segment model that is shown one; the mean over several."""

MASK = Tensor("MASK", (-1, -1))
"""What a person drew on a support: lesion where it is not 0."""

SUPPORT_MODEL = "support_model"
"""Parameter that names the model which makes a support's prototypes."""

DISTANCE = Tensor("DISTANCE", (1,), "float32", optional=True)
"""How far a picture's embedding is from those of dermoscopic images, in shares of what is their limit: above 1 it
is none, and gets no diagnosis."""

VISUALBACKPROP = Tensor("VISUALBACKPROP", (-1, -1), optional=True)
"""What the classifier's convolutions responded to over the whole picture, whatever it took it for."""

PATTERNS = Tensor("PATTERNS", (-1, -1, -1), "float32", optional=True)
"""Local descriptors over the whole picture, [h, w, K] of sizes of the model's own. A place's direction is its
look, so that a cosine compares two of them; its length is what it counts, by being lesion and by what it added to
the most probable diagnosis. Lengths sum to 1; beyond the square that the model was shown they are 0."""

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
"""Of the model that makes a support's prototypes; it serves no stage."""

SCALE = 4
"""Output over input resolution of enhance models that do not say."""

SCALED = frozenset({"ENHANCED"})
"""Outputs that are ``scale`` times as high and wide as ``IMAGE``; other maps are of its size."""
