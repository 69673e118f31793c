"""Pictures of all diagnoses by DCGANs that share their first layers (Bisla et al. 2019, section 3.7).

Three diagnoses on ISIC 2017, seven on a folder of HAM10000's layout; each is as frequent in a batch as the others.
All else as in :mod:`lesionnets.recipes.generate.generate_dcgan`.
"""

from __future__ import annotations

from pathlib import Path

from dermbatch.errors import UsageError
from lesionnets.recipes.generate.generate_dcgan import find_data, train_classes
from lesionnets.training import RecipeOptions

NAME = "generate_coupled"


def train(options: RecipeOptions) -> Path:
    """Train on the ``train`` split of ``DATA``, all its diagnoses; returns the best checkpoint.

    Raises:
        UsageError: If data or weights are missing, or one diagnosis is named.
    """
    if options.diagnosis is not None:
        raise UsageError(f"{NAME} learns all diagnoses together: leave --class out, or train generate_dcgan")
    _, diagnoses, _ = find_data(options.data_folder())
    return train_classes(options, NAME, diagnoses)
