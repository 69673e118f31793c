"""``lesionnets patterns``: what a classifier has discovered; ``evaluate retrieval``: what it finds alike."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dermbatch.errors import UsageError
from dermbatch.stages import Stage
from lesionnets.commands import output
from lesionnets.commands.options import MADE, AsJson, Classifier, Images, Labels, Map, Segmenter, Split, renamed

if TYPE_CHECKING:
    from lesionnets.data.sources.isic import Sample
    from lesionnets.evaluation.models.predictors import LoadedModel
    from lesionnets.nets.classify.pattern_classifier import PatternClassifier

Models = Annotated[
    list[Path] | None,
    typer.Option(
        "--model",
        help="best.pt of a run of classify_patterns; may be given several times: the first is catalogued, the "
        "others show how stable it is. By default the three that come along.",
    ),
]
Experts = Annotated[Path | None, typer.Option(help="Experts' masks, which take precedence over --segment.")]


def patterns(
    images: Images,
    out: Annotated[Path, typer.Option(help="Folder for patterns.html and patterns.json.", callback=MADE)],
    labels: Annotated[
        Path | None,
        typer.Option(help="CSV file with image_id and diagnosis; without it the network guesses them."),
    ] = None,
    model: Models = None,
    masks: Experts = None,
    segment: Segmenter = None,
    split: Split = None,
    rename: Map = None,
    count: Annotated[int, typer.Option(min=2, max=64, help="Patterns to find.")] = 12,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the clusters' first centres.")] = 0,
) -> None:
    """Find patterns among the lesions of a folder and write a catalogue of them; prints the page's path."""
    from lesionnets.evaluation import samples  # noqa: PLC0415
    from lesionnets.evaluation.discovery import catalogue, clusters  # noqa: PLC0415
    from lesionnets.evaluation.discovery.described import described  # noqa: PLC0415

    if labels is None and (split or rename):
        raise UsageError("--split and --map concern labels: name a file with --labels")
    if labels is not None:
        found = samples.with_diagnoses(images, labels, masks=masks, split=split, renamed=renamed(rename))
    else:
        found = samples.with_masks(images, masks, partial=True) if masks else samples.pictures(images)
    chosen = found.samples
    networks = _networks(model)
    seen = described(networks, chosen, _segmenter(chosen, segment), watched=output.watched("patterns"))
    all_patterns = [clusters.discover(one, count, seed) for one in seen]
    agreements = [clusters.agreement(all_patterns[0], other) for other in all_patterns[1:]]
    again = clusters.agreement(all_patterns[0], clusters.discover(seen[0], count, seed + 1))
    title = f"{count} patterns of {len(chosen)} pictures, seed {seed}"
    page = catalogue.catalogue(
        title, chosen, seen[0], all_patterns[0], agreements, networks[0].diagnoses, again=again
    )
    written = catalogue.write(page, out, json.dumps(page.figures(), indent=2) + "\n")
    for what, number in found.left_out.items():
        typer.echo(f"lesionnets: left out {number} {what}", err=True)
    typer.echo(written)


def evaluate_retrieval(
    images: Images,
    labels: Labels,
    model: Models = None,
    masks: Experts = None,
    segment: Segmenter = None,
    classify: Classifier = None,
    split: Split = None,
    held: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of the images to search, if it is another one; may be given several times."),
    ] = None,
    held_masks: Annotated[Path | None, typer.Option(help="Experts' masks of the images to search.")] = None,
    held_split: Annotated[str | None, typer.Option(help="Split of the images to search, in the labels.")] = None,
    most: Annotated[
        int | None, typer.Option(min=10, help="Search only this many of them, drawn at random.")
    ] = None,
    rename: Map = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of that draw.")] = 0,
    as_json: AsJson = False,
) -> None:
    """How many of the five most similar pictures have the same diagnosis, by patterns and by embeddings."""
    from lesionnets.evaluation import samples  # noqa: PLC0415
    from lesionnets.evaluation.discovery import retrieval  # noqa: PLC0415
    from lesionnets.evaluation.discovery.described import described  # noqa: PLC0415
    from lesionnets.evaluation.figures.intervals import Figure, bootstrap_mean  # noqa: PLC0415
    from lesionnets.evaluation.models import predictors  # noqa: PLC0415

    names = renamed(rename)
    asked = samples.with_diagnoses(images, labels, masks=masks, split=split, renamed=names)
    others = (
        samples.with_diagnoses(held, labels, masks=held_masks, split=held_split, renamed=names) if held else asked
    )
    among = _drawn(others.samples, most, seed) if held else others.samples
    if len(among) <= retrieval.NEAREST:
        raise UsageError(f"{len(among)} pictures are too few to find {retrieval.NEAREST} among")
    network = _networks(model)[:1]
    parts = [asked.samples, among] if held else [asked.samples]
    segmenter = _segmenter([sample for part in parts for sample in part], segment)
    classifier = predictors.load_model(classify or predictors.default_model(Stage.CLASSIFY), Stage.CLASSIFY)
    seen = [described(network, part, segmenter, watched=output.watched("patterns"))[0] for part in parts]
    whole = [
        retrieval.embeddings(classifier, part, segmenter, watched=output.watched("embeddings")) for part in parts
    ]
    near = {
        "whole": retrieval.by_whole(whole[0], whole[-1]),
        "patterns": retrieval.by_patterns(seen[0], seen[-1]),
        "own_embedding": retrieval.by_whole(seen[0].embeddings, seen[-1].embeddings),
    }
    near["whole_and_patterns"] = 0.75 * near["whole"] + 0.25 * near["patterns"]
    diagnoses = [[one.diagnosis for one in part] for part in parts]
    shares = {name: retrieval.right(one, diagnoses[0], diagnoses[-1], same=not held) for name, one in near.items()}
    figures: dict[str, Figure] = {}
    for group in ["", *sorted({str(one) for one in diagnoses[0]})]:
        mine = [not group or one == group for one in diagnoses[0]]
        end = f"_{group}" if group else ""
        for name, share in shares.items():
            figures[f"precision_at_5_{name}{end}"] = bootstrap_mean(share[mine].tolist())
        for name in ("patterns", "whole_and_patterns"):
            figures[f"{name}_minus_whole{end}"] = bootstrap_mean((shares[name] - shares["whole"])[mine].tolist())
    about: dict[str, object] = {"found_among": len(among), "seed": seed}
    chance = [sum(other == one for other in diagnoses[-1]) / len(among) for one in diagnoses[0]]
    about["chance"] = round(sum(chance) / len(chance), 4)
    output.show(
        "retrieval",
        str(model[0]) if model else "patterns that come along",
        len(asked.samples),
        figures,
        as_json=as_json,
        about=about,
        left_out=asked.left_out,
    )


def _networks(paths: list[Path] | None) -> list[PatternClassifier]:
    from lesionnets.evaluation.discovery.described import load_patterns  # noqa: PLC0415
    from lesionnets.weights import patterns_along  # noqa: PLC0415

    return [load_patterns(path) for path in paths or patterns_along()]


def _segmenter(samples: Sequence[Sample], name: str | None) -> LoadedModel | None:
    """The model that finds lesions; none where every sample has an expert's mask."""
    from lesionnets.evaluation.models import predictors  # noqa: PLC0415

    if all(sample.mask is not None for sample in samples):
        return None
    return predictors.load_model(name or predictors.default_model(Stage.SEGMENT), Stage.SEGMENT)


def _drawn(samples: Sequence[Sample], most: int | None, seed: int) -> list[Sample]:
    """This many of them at random, in order; all if no number is given."""
    if most is None or most >= len(samples):
        return list(samples)
    return [samples[at] for at in sorted(random.Random(seed).sample(range(len(samples)), most))]
