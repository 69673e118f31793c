"""Phantoms: drawn dermoscopic images whose lesion and occlusions are known to the pixel.

They serve as sample images, as test input with known truth, and as training material: `draw_hairs` and its
kin put occlusions on any picture, real ones too. Only NumPy and OpenCV are needed to draw.
"""

from dermbatch.phantoms.lesion import Kind
from dermbatch.phantoms.occlusion import Drawn, draw_bubbles, draw_hairs, draw_ink, draw_ruler
from dermbatch.phantoms.phantom import KINDS, OCCLUSIONS, Occlusion, Phantom, phantom
from dermbatch.phantoms.samples import write_samples
from dermbatch.phantoms.skin import draw_vignette

__all__ = [
    "KINDS",
    "OCCLUSIONS",
    "Drawn",
    "Kind",
    "Occlusion",
    "Phantom",
    "draw_bubbles",
    "draw_hairs",
    "draw_ink",
    "draw_ruler",
    "draw_vignette",
    "phantom",
    "write_samples",
]
