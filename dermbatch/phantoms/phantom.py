"""A whole phantom: skin, lesion, light, occlusions, and the truth about them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from dermbatch.phantoms.lesion import Common, Kind, outline, paint
from dermbatch.phantoms.occlusion import Drawn, draw_bubbles, draw_hairs, draw_ink, draw_ruler
from dermbatch.phantoms.skin import draw_vignette, grain, skin

Rgb = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Occlusion = Literal["hair", "ruler", "ink", "bubbles"]

KINDS: tuple[Common, ...] = get_args(Common)
"""The sorts of lesion that are drawn where none is asked for."""
OCCLUSIONS: tuple[Occlusion, ...] = get_args(Occlusion)
"""What can be drawn over them, in this order."""

_DRAW: dict[Occlusion, Callable[[Rgb, np.random.Generator], Drawn]] = {
    "ink": draw_ink,
    "bubbles": draw_bubbles,
    "hair": draw_hairs,
    "ruler": draw_ruler,
}
_LIKELY: dict[Occlusion, float] = {"hair": 0.65, "ruler": 0.25, "ink": 0.2, "bubbles": 0.3}


@dataclass(frozen=True)
class Phantom:
    """A drawn dermoscopic image and its truth.

    Attributes:
        clean: uint8 [H, W, 3] sRGB without occlusions.
        image: The same with them; equal to ``clean`` outside ``occlusion``.
        lesion: bool [H, W], true on the lesion, also where something lies over it.
        occlusion: bool [H, W], true where hair, ruler, ink or bubbles were drawn.
        kind: What the lesion was made to look like; a shape and palette, no diagnosis.
        occlusions: What was drawn over it.
        pixel_spacing_mm: (row, column) distance of pixel centres in mm.
    """

    clean: Rgb
    image: Rgb
    lesion: Mask
    occlusion: Mask
    kind: Kind
    occlusions: tuple[Occlusion, ...]
    pixel_spacing_mm: tuple[float, float]


def phantom(
    seed: int,
    *,
    height: int = 480,
    width: int = 640,
    kind: Kind | None = None,
    occlusions: Collection[Occlusion] | None = None,
) -> Phantom:
    """Draw a phantom; the same arguments give the same phantom.

    Args:
        seed: Decides everything that the other arguments leave open.
        height: Rows, at least 32.
        width: Columns, at least 32.
        kind: What the lesion looks like; any of `KINDS` by default, a `ring` where one is asked for.
        occlusions: What is drawn over it; by default some of `OCCLUSIONS`, an empty collection for none.
            The clean picture does not depend on them.
    """
    own, over = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(2))
    chosen: Kind = KINDS[int(own.integers(len(KINDS)))]
    chosen = kind or chosen
    depth, lesion = outline(own, height, width, chosen)
    clean = grain(own, paint(own, skin(own, height, width), depth, chosen), own.uniform(0.8, 3.0))
    tube = int(own.integers(2**32)) if own.random() < 0.35 else None
    wanted = tuple(o for o in OCCLUSIONS if over.random() < _LIKELY[o])
    if occlusions is not None:
        wanted = tuple(o for o in OCCLUSIONS if o in occlusions)
    image, occlusion = clean, np.zeros((height, width), bool)
    for name, draw in _DRAW.items():
        if name in wanted:
            image, touched = draw(image, over)
            occlusion = occlusion | touched
    if tube is not None:  # the dermoscope's tube hides hairs as it hides skin
        clean, image = (draw_vignette(picture, np.random.default_rng(tube)) for picture in (clean, image))
        occlusion &= (image != clean).any(axis=2)
    spacing = float(own.uniform(11, 20)) / width  # dermoscopes show 11 to 20 mm of skin
    return Phantom(clean, image, lesion, occlusion, chosen, wanted, (spacing, spacing))
