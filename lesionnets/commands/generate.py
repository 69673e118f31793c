"""``lesionnets generate`` and ``lesionnets evaluate generated``: pictures invented by networks."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dermbatch.errors import UsageError
from dermbatch.stages import Stage
from lesionnets.commands import output
from lesionnets.commands.options import MADE, AsJson

if TYPE_CHECKING:
    from lesionnets.data.sources.isic import Sample

Diagnosis = Annotated[str, typer.Option("--class", help="Diagnosis, such as melanoma.")]
Data = Annotated[Path | None, typer.Option(envvar="LESIONNETS_DATA", help="Folder in the layout of docs/data.md.")]
Embeddings = Annotated[
    Path | None,
    typer.Option(help="File of the originals' embeddings (.npz): read if it exists, else written."),
]


def generate(
    diagnosis: Diagnosis,
    out: Annotated[
        Path, typer.Option(help="Folder to make: pictures, manifest.json, sheet.png, histograms.", callback=MADE)
    ],
    count: Annotated[int, typer.Option(min=1, help="Pictures to write.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the latent vectors.")] = 0,
    model: Annotated[
        Path | None, typer.Option(help="Checkpoint of a generator; by default the one that comes along.")
    ] = None,
    data: Data = None,
    embeddings: Embeddings = None,
) -> None:
    """Invent pictures of a diagnosis, marked as such, without near copies of the training pictures of --data."""
    from lesionnets.evaluation.generated.duplicates import EmbeddingFile  # noqa: PLC0415
    from lesionnets.evaluation.generated.making import Making, TrainingPictures, load_generator, make  # noqa: PLC0415
    from lesionnets.evaluation.models import predictors  # noqa: PLC0415
    from lesionnets.weights import generator_of  # noqa: PLC0415

    weights = model or generator_of(diagnosis)
    network = load_generator(weights, diagnosis)
    known = None
    if data is None:
        sys.stderr.write("lesionnets: not compared with training pictures: name them with --data DIR\n")
    else:
        classifier = predictors.load_model(predictors.default_model(Stage.CLASSIFY), Stage.CLASSIFY)
        known = TrainingPictures(
            _of_class(data, "train", diagnosis), EmbeddingFile(classifier, network.size, embeddings)
        )
    manifest = make(Making(network, weights, diagnosis, count, seed), out, known)
    refused = manifest["refused"]
    typer.echo(f"{count} pictures of {diagnosis} in {out}, {len(refused)} refused")  # type: ignore[arg-type]


def evaluate_generated(
    diagnosis: Diagnosis,
    images: Annotated[Path, typer.Option(help="Folder that `lesionnets generate` made.")],
    data: Data = None,
    embeddings: Embeddings = None,
    as_json: AsJson = False,
) -> None:
    """How like originals generated pictures are and how varied: Frechet distance, precision and recall."""
    from lesionnets.data.sources.isic import find_samples, read_image  # noqa: PLC0415
    from lesionnets.evaluation.generated.duplicates import EmbeddingFile  # noqa: PLC0415
    from lesionnets.evaluation.generated.duplicates import embeddings as embedded  # noqa: PLC0415
    from lesionnets.evaluation.generated.likeness import evaluate  # noqa: PLC0415
    from lesionnets.evaluation.models import predictors  # noqa: PLC0415

    if data is None:
        raise UsageError("generated pictures are compared with originals: name them with --data DIR")
    made = [read_image(one.image) for one in find_samples(images) if one.image_id.startswith("synthetic_")]
    if not made:
        raise UsageError(f"{images} holds no generated pictures; `lesionnets generate` makes them")
    name = predictors.default_model(Stage.CLASSIFY)
    classifier = predictors.load_model(name, Stage.CLASSIFY)
    originals = EmbeddingFile(classifier, len(made[0]), embeddings)
    training, held_out = (originals(_of_class(data, split, diagnosis)) for split in ("train", "val"))
    figures = evaluate(training, held_out, embedded(classifier, made))
    about: dict[str, object] = {
        "diagnosis": diagnosis,
        "training_pictures": len(training),
        "validation_pictures": len(held_out),
    }
    output.show("generated", name, len(made), figures, as_json=as_json, about=about)


def _of_class(data: Path, split: str, diagnosis: str) -> list[Sample]:
    """The pictures of a diagnosis; of HAM10000's layout, those of its own split.

    Raises:
        UsageError: If there is none.
    """
    from lesionnets.data.sources import folds, ham10000  # noqa: PLC0415

    if ham10000.is_ham10000(data):
        samples = ham10000.split_by_lesion(data)[split == "val"]
    else:
        samples = folds.all_samples(data, split)
    found = [sample for sample in samples if sample.diagnosis == diagnosis]
    if not found:
        raise UsageError(f"{data} has no picture of {diagnosis} in its {split} split")
    return found
