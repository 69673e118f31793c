"""What does each part of ``classify_lite``'s training bring, on a source that was not trained on?

``python -m benchmarks.ablation --data DATA --leave-out 2 [--row N ...] [--work DIR]``
``python -m benchmarks.ablation --smoke``: a handful of drawn lesions and one epoch, as a test

Five trainings at 160 pixels and 8 epochs, each with all that the one before it has and one part more. Printed are
the AUCs of the last average of the weights on the source left out, with 95 % bootstrap intervals over its
pictures, drawn within diagnoses. One training a row: differences of 0.02 are chance.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from benchmarks.arguments import read_arguments
from benchmarks.figures import drawn_samples, over_folds, ranked, tell
from lesionnets import checkpoint
from lesionnets.data.batches.in_memory import Album, load_album
from lesionnets.data.batches.looked_at import Looks
from lesionnets.data.sources.folds import split_samples
from lesionnets.evaluation.figures.intervals import Figure
from lesionnets.recipes.classify.classify_lite import MARGIN, train_one, view_logits
from lesionnets.training import RecipeOptions

SIZE, EPOCHS = 160, 8
_NOTHING = Looks(light=False, layers=False, scales=False, balance=0)
ROWS = {
    "turned": _NOTHING,
    "light": Looks(layers=False, scales=False, balance=0),
    "layers": Looks(scales=False, balance=0),
    "scales": Looks(balance=0),
    "mixup": Looks(mixup=True, balance=1),
}
"""Turned, squashed and zoomed pictures; other light, colours and resolution; hair, rulers, ink, bubbles and dark
corners; views from the lesion to the picture; mixup, and diagnoses balanced within sources."""


def main() -> None:
    """Train what is asked for, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="in the layout of docs/data.md")
    parser.add_argument("--leave-out", type=int, default=2, metavar="SOURCE")
    parser.add_argument("--row", action="append", choices=list(ROWS), help="all, if none is named")
    parser.add_argument("--seed", type=int, default=2017)
    parser.add_argument("--work", type=Path, help="keeps the runs; what is there is resumed")
    asked = read_arguments(parser)
    with TemporaryDirectory() as scratch:
        work = asked.work or Path(scratch)
        if asked.smoke:
            samples = drawn_samples(Path(scratch), 6)
            parts, size, epochs = (samples, samples), 64, 1
        else:
            parts, size, epochs = split_samples(asked.data, asked.leave_out), SIZE, EPOCHS
        named = ([one for one in part if one.diagnosis] for part in parts)
        training, held_out = (load_album(part, round(size * MARGIN)) for part in named)
        for row in asked.row or ROWS:
            out = work / f"source-{asked.leave_out}-{row}"
            resume = (out / "last.pt").exists()
            options = RecipeOptions(out, smoke=asked.smoke, resume=resume, seed=asked.seed, epochs=epochs)
            best = train_one(options, training, held_out, size=size, vary=ROWS[row])
            tell(measured(row, best, held_out, size))


def measured(row: str, best: Path, held_out: Album, size: int) -> dict[str, Figure]:
    """AUCs of a row's checkpoint by the mean of both views."""
    model = checkpoint.load(best).build()
    with torch.no_grad():
        found = view_logits(model, held_out, size).softmax(dim=2).mean(dim=1).numpy()
    labels = held_out.labels.cpu().numpy().astype(np.int64)
    return over_folds([(labels, {row: ranked(found, labels)})], ())


if __name__ == "__main__":
    main()
