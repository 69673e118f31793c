"""Enhancement: the lesion super-resolved over the untouched background (SkinSegmentSRGAN 3.4).

No detail is ever lost: a crop that is large enough is kept as it is, and one that nearly is is enlarged without
the network, which has hardly anything to add there. Where a model has a smaller one beside it, which enlarges less
for less work, that is asked wherever it enlarges enough: the doubler.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from dermbatch.images.fitting import fit
from dermbatch.images.lesion import Mask
from dermbatch.models.contracts import DOUBLER
from dermbatch.models.served import ServedModel
from dermbatch.records.asked import ModelChoice
from dermbatch.records.outcome import BoundingBox, EnhanceOutput
from dermbatch.stages import Stage
from workers.inference.protocol import Inference
from workers.stages.tiling import super_resolve

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class EnhanceParameters:
    """What, besides the model, determines the output of enhancement.

    Attributes:
        margin: Skin around the lesion's bounding box, as a share of its long side.
        long_side: Crops below this many pixels are brought to it, at most ``scale`` times.
        least: Crops to be enlarged less than this many times are resampled, others super-resolved.
        feather: Pixels of the source over which the enhanced lesion fades into the background, inside the mask.
        scale: Scale of the model.
        tile: Most rows of the strips for a model that takes any size.
        overlap: Source pixels that neighbouring strips or tiles share.
    """

    margin: float = 0.1
    long_side: int = 1024
    least: float = 1.5
    feather: int = 2
    scale: int = 4
    tile: int = 256
    overlap: int = 16

    @classmethod
    def of(cls, model: ServedModel) -> EnhanceParameters:
        """The parameters in the model's configuration."""
        return cls(
            scale=int(model.number("scale", cls.scale)),
            tile=int(model.number("tile", cls.tile)),
            overlap=int(model.number("overlap", cls.overlap)),
        )


def doubler_of(model: ServedModel, client: Inference) -> ServedModel | None:
    """The model beside an enhance model that enlarges less for less work, of the same version; none without one.

    Raises:
        InferenceUnavailable: If Triton does not answer.
        ModelContractError: If the model names one that is missing or breaks the contract.
    """
    name = model.parameters.get(DOUBLER)
    return client.model(Stage.ENHANCE, ModelChoice(name=name, version=model.version)) if name else None


@dataclass(frozen=True)
class Enhanced:
    """What enhancement gives.

    Attributes:
        image: [h, w, 3] uint8 RGB, or none where there is no lesion.
        output: For the record.
    """

    image: Image | None
    output: EnhanceOutput


def enhance(
    image: Image,
    mask: Mask,
    client: Inference,
    model: ServedModel,
    parameters: EnhanceParameters,
    *,
    doubler: ServedModel | None = None,
) -> Enhanced:
    """Enhance the lesion of an image of any size.

    Args:
        image: [H, W, 3] uint8 RGB, purified or not.
        mask: [H, W] uint8, 255 where lesion.
        client: What runs the models.
        model: Serves the stage's contract.
        parameters: See there.
        doubler: Serves the contract for crops that it enlarges enough; none: the model serves all.

    Raises:
        InferenceUnavailable: If Triton does not answer.
        ModelContractError: If the model breaks the contract.
    """
    box = lesion_box(mask, parameters.margin)
    if box is None:
        return Enhanced(None, EnhanceOutput(method="none"))
    rows, columns = slice(box.top, box.bottom), slice(box.left, box.right)
    crop, lesion = image[rows, columns], mask[rows, columns]
    height, width = crop.shape[:2]
    if max(height, width) >= parameters.long_side:
        output = EnhanceOutput(method="native", box=box, scale=1.0, height=height, width=width)
        return Enhanced(crop, output)
    scale = min(parameters.scale, parameters.long_side / max(height, width))
    size = round(width * scale), round(height * scale)
    if scale < parameters.least:
        output = EnhanceOutput(method="resampled", box=box, scale=scale, height=size[1], width=size[0])
        return Enhanced(_resampled(crop, size), output)
    alpha = feathered(lesion, parameters.feather)
    if doubler is not None and scale <= doubler.number("scale", parameters.scale):
        model, parameters = doubler, EnhanceParameters.of(doubler)
    detailed = super_resolve(
        image,
        box,
        alpha > 0,
        client,
        model,
        scale=parameters.scale,
        tile=parameters.tile,
        overlap=parameters.overlap,
        grid=int(model.number("grid", 1)),
        halvings=halvings(parameters.scale, scale),
    )
    return Enhanced(
        _composite(crop, detailed, alpha, size),
        EnhanceOutput(method="super_resolution", box=box, scale=scale, height=size[1], width=size[0]),
    )


def halvings(scale: int, wanted: float) -> int:
    """How often a picture enlarged ``scale`` times can be halved, and still be enlarged ``wanted`` times."""
    count = 0
    while scale % 2 == 0 and scale / 2 >= wanted:
        scale, count = scale // 2, count + 1
    return count


def lesion_box(mask: Mask, margin: float) -> BoundingBox | None:
    """The box around all lesions with a margin, within the image; none for an empty mask."""
    left, top, width, height = cv2.boundingRect(mask)
    if not width:
        return None
    extra = round(margin * max(width, height))
    return BoundingBox(
        top=max(0, top - extra),
        left=max(0, left - extra),
        bottom=min(mask.shape[0], top + height + extra),
        right=min(mask.shape[1], left + width + extra),
    )


def feathered(lesion: Mask, feather: int) -> NDArray[np.float32]:
    """Weight of the enhanced lesion, 0 to 1: 1 well inside, 0 outside the mask and on its outermost pixel.

    Zero on the outermost pixel, so that it stays zero outside when the weight is interpolated to the larger frame.
    """
    if feather < 1:
        return (lesion > 0).astype(np.float32)
    reach = 2 * feather + 1
    # The frame of the crop is no border of the lesion: where it runs out of the image it is enhanced to the edge.
    inner = cv2.erode(lesion, np.ones((reach + 2, reach + 2), np.uint8), borderType=cv2.BORDER_REPLICATE)
    soft = cv2.GaussianBlur(inner, (reach, reach), 0, borderType=cv2.BORDER_REPLICATE)
    return np.asarray(soft, np.float32) / np.float32(255)


def _resampled(crop: Image, size: tuple[int, int]) -> Image:
    return np.asarray(cv2.resize(crop, size, interpolation=cv2.INTER_CUBIC), np.uint8)


def _composite(crop: Image, detailed: Image, alpha: NDArray[np.float32], size: tuple[int, int]) -> Image:
    """The enhanced lesion over the crop's own pixels, at a size (width, height) between those of the two."""
    background = _resampled(crop, size)
    detailed = fit(detailed, (size[1], size[0]))
    weight = cv2.resize(alpha, size, interpolation=cv2.INTER_LINEAR)
    return np.asarray(cv2.blendLinear(detailed, background, weight, 1 - weight), np.uint8)
