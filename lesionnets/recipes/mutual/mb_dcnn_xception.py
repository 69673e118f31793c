"""MB-DCNN at the paper's size, on Xception from scratch, for a GPU. All else is as in the recipe ``mb_dcnn``.

It has 130 million parameters, and there are no ImageNet weights for it under a free licence. So it needs hours,
and more images than ISIC 2017 has.
"""

from __future__ import annotations

from pathlib import Path

from lesionnets.recipes.mutual import mb_dcnn
from lesionnets.training import RecipeOptions

XCEPTION = mb_dcnn.MutualRecipe("xception", size=224, rate=5e-4)
_NARROW = {"width": 0.125, "blocks": 1}
SMALL_XCEPTION = mb_dcnn.MutualRecipe("xception", size=64, batch_size=4, rate=5e-4, width=(_NARROW, _NARROW))


def train(options: RecipeOptions) -> Path:
    """As :func:`lesionnets.recipes.mutual.mb_dcnn.train`, without weights from elsewhere."""
    recipe = SMALL_XCEPTION if options.smoke else XCEPTION
    return mb_dcnn.bootstrap(options, recipe.at_width(options.width))
