"""The arguments of benchmarks that take images, or draw a few with ``--smoke``."""

from __future__ import annotations

import argparse


def read_arguments(parser: argparse.ArgumentParser, *, folds: bool = False) -> argparse.Namespace:
    """What was typed; ends the program if there are no images.

    Args:
        parser: Has all options except ``--smoke``: ``--data``, and ``--fold`` if there are folds.
        folds: Whether at least one fold is needed, too.
    """
    parser.add_argument("--smoke", action="store_true", help="try it on a few drawn images")
    asked = parser.parse_args()
    if not asked.smoke and not (asked.data and asked.data.is_dir()):
        parser.error("--data is missing or no folder: name that of the images, or take --smoke")
    if not asked.smoke and folds and not asked.fold:
        parser.error("--fold is missing: name at least one, or take --smoke")
    return asked
