"""``lesionnets evaluate``: figures of what is served on labelled images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dermbatch.errors import UsageError
from dermbatch.stages import Stage
from lesionnets.commands import output
from lesionnets.commands.options import (
    AsJson,
    By,
    Classes,
    Classifier,
    Flips,
    Images,
    Labels,
    LongSide,
    Map,
    Masks,
    Model,
    Native,
    Out,
    Partial,
    Segmenter,
    Split,
    listed,
    not_over,
    renamed,
    sides,
    strata,
)
from lesionnets.data.degradations import Degradation
from lesionnets.evaluation.figures.intervals import Figure
from lesionnets.evaluation.figures.strata import Strata, counts, means, with_source

if TYPE_CHECKING:
    from lesionnets.evaluation.samples import Found

app = typer.Typer(help="Figures of a model on labelled images, with 95 % intervals.", no_args_is_help=True)

# PyTorch and the networks are imported by the commands that need them: help and usage errors come at once.

Rows = list[dict[str, object]]
OVERLAPS = ("jaccard", "dice", "precision", "recall")
"""Measures of masks that are also reported for groups."""


def _swept(
    long_side: str | None, out: Path | None, measure: Callable[[int | None, Rows], Mapping[str, Figure]]
) -> tuple[dict[str, Figure], Rows]:
    """Measure at each requested long side; returns the figures by name, and a row for each image and side.

    The rows are written if requested.
    """
    figures: dict[str, Figure] = {}
    rows: Rows = []
    for side, end in sides(long_side):
        part: Rows = []
        measured = measure(side, part)
        rows += [{"long_side": side, **with_source(row)} for row in part]
        figures |= {f"{name}{end}": figure for name, figure in measured.items()}
    output.write_rows(out, rows)
    return figures, rows


def _groups(rows: Rows, by: Sequence[Strata]) -> dict[str, object]:
    """How many images each group has, of the first long side."""
    one = [row for row in rows if row["long_side"] == rows[0]["long_side"]]
    return {"groups": counts(one, by)} if by else {}


@app.command("segment")
def evaluate_segment(
    images: Images,
    masks: Masks,
    model: Model = None,
    flips: Flips = False,
    native: Native = False,
    raw: Annotated[
        bool, typer.Option(help="Measure the network's raw mask, neither cleaned nor reduced to one lesion.")
    ] = False,
    partial: Partial = False,
    long_side: LongSide = None,
    by: By = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Overlap, boundary distance and calibration of lesion masks, at the experts' resolution."""
    groups = strata(by)
    sides(long_side)
    from lesionnets.evaluation import samples, segment  # noqa: PLC0415
    from lesionnets.evaluation.models import predictors  # noqa: PLC0415

    found = samples.with_masks(images, masks, partial=partial)
    model = model or predictors.default_model(Stage.SEGMENT)
    loaded = predictors.load_model(model, Stage.SEGMENT, flips=flips)

    def measure(side: int | None, rows: Rows) -> dict[str, Figure]:
        through = output.watched("segment")
        figures = segment.evaluate(
            loaded, found.samples, native=native, raw=raw, watched=through, long_side=side, rows=rows
        )
        return figures | means(rows, groups, OVERLAPS)

    figures, rows = _swept(long_side, out, measure)
    about: dict[str, object] = {"resolution": output.resolution(native), "masks": "network" if raw else "worker"}
    about |= {"flips": flips} | _groups(rows, groups)
    output.show(
        "segment", model, len(found.samples), figures, as_json=as_json, about=about, left_out=found.left_out
    )


@app.command("classify")
def evaluate_classify(
    images: Images,
    labels: Labels,
    model: Model = None,
    masks: Annotated[
        Path | None, typer.Option(help="Experts' masks, which take precedence over --segment.")
    ] = None,
    segment: Segmenter = None,
    whole: Annotated[
        bool, typer.Option("--whole", help="Use empty masks, so that the classifier sees whole pictures.")
    ] = False,
    split: Split = None,
    classes: Classes = None,
    flips: Flips = False,
    native: Native = False,
    rename: Map = None,
    long_side: LongSide = None,
    by: By = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """AUC, accuracy, specificity at given sensitivities, and calibration of the diagnoses' probabilities."""
    groups = strata(by)
    sides(long_side)
    not_over(out, labels)
    if whole and (masks or segment):
        raise UsageError("--whole uses no masks: leave out --masks and --segment")
    if whole and Strata.CONTRAST in groups:
        raise UsageError("--whole uses no masks, so there is no contrast of lesions: leave out --by contrast")
    from lesionnets.evaluation import classify, samples  # noqa: PLC0415
    from lesionnets.evaluation.models import predictors  # noqa: PLC0415

    found = samples.with_diagnoses(images, labels, masks=masks, split=split, renamed=renamed(rename))
    model = model or predictors.default_model(Stage.CLASSIFY)
    segment = None if whole else segment or predictors.default_model(Stage.SEGMENT)
    _refuse_labels(model, classes, found)
    loaded = predictors.load_model(model, Stage.CLASSIFY, flips=flips)
    segmenter = predictors.load_model(segment, Stage.SEGMENT) if segment else None

    def measure(side: int | None, rows: Rows) -> dict[str, Figure]:
        figures = classify.evaluate(
            loaded,
            found.samples,
            segmenter,
            classes=listed(classes),
            native=native,
            watched=output.watched("classify"),
            long_side=side,
            table=rows,
        )
        return figures | classify.of_groups(rows, groups, [name for name in rows[0] if name not in classify.TOLD])

    figures, rows = _swept(long_side, out, measure)
    experts = sum(sample.mask is not None for sample in found.samples)
    about = {
        "resolution": output.resolution(native),
        "lesions": segment or "none",
        "experts_masks": experts,
        "flips": flips,
    }
    about |= output.missing_classes(listed(classes) or loaded.labels, found.samples) | _groups(rows, groups)
    output.show(
        "classify", model, len(found.samples), figures, as_json=as_json, about=about, left_out=found.left_out
    )


def _refuse_labels(model: str, classes: str | None, found: Found) -> None:
    """Report labels that the model does not know before loading it, if possible."""
    from lesionnets.evaluation import classify  # noqa: PLC0415
    from lesionnets.evaluation.models import predictors  # noqa: PLC0415

    if names := listed(classes) or predictors.told_classes(model):
        classify.refuse_unknown(model, names, [one for one in found.samples if one.diagnosis is not None])


@app.command("chain")
def evaluate_chain(
    images: Images,
    masks: Annotated[Path | None, typer.Option(help="Experts' masks, to measure what segmentation finds.")] = None,
    labels: Annotated[
        Path | None, typer.Option(help="CSV file with image_id and diagnosis, to measure the diagnoses.")
    ] = None,
    purify: Annotated[
        str | None, typer.Option(help="Model that purifies, as for --model of `evaluate purify`.")
    ] = None,
    segment: Segmenter = None,
    classify: Classifier = None,
    unpurified: Annotated[bool, typer.Option("--unpurified", help="Leave purification out.")] = False,
    split: Split = None,
    classes: Classes = None,
    rename: Map = None,
    partial: Partial = False,
    long_side: LongSide = None,
    by: By = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Purify, segment and classify as served, one after another, and measure the masks and diagnoses."""
    groups = strata(by)
    sides(long_side)
    not_over(out, labels)
    if not masks and not labels:
        raise UsageError("nothing to compare with: name --masks DIR, --labels FILE or both")
    if unpurified and purify:
        raise UsageError("--unpurified leaves purification out: leave out --purify")
    from lesionnets.evaluation import chain, samples  # noqa: PLC0415
    from lesionnets.evaluation import classify as diagnoses  # noqa: PLC0415
    from lesionnets.evaluation.models import predictors  # noqa: PLC0415

    found = samples.with_either(images, masks, labels, split=split, renamed=renamed(rename), partial=partial)
    purify = None if unpurified else purify or predictors.default_model(Stage.PURIFY)
    segment = segment or predictors.default_model(Stage.SEGMENT)
    classify = (classify or predictors.default_model(Stage.CLASSIFY)) if labels else None
    if classify:
        _refuse_labels(classify, classes, found)
    loaded = chain.Chain(
        predictors.load_model(purify, Stage.PURIFY) if purify else None,
        predictors.load_model(segment, Stage.SEGMENT),
        predictors.load_model(classify, Stage.CLASSIFY) if classify else None,
    )
    names = listed(classes) or (loaded.classifier.labels if loaded.classifier else ())

    def measure(side: int | None, rows: Rows) -> dict[str, Figure]:
        figures = chain.evaluate(
            loaded, found.samples, classes=names, watched=output.watched("chain"), long_side=side, table=rows
        )
        figures |= means(rows, groups, [f"segment_{name}" for name in OVERLAPS])
        ranked = diagnoses.of_groups([row for row in rows if row["diagnosis"]], groups, names) if classify else {}
        return figures | {f"classify_{name}": figure for name, figure in ranked.items()}

    figures, rows = _swept(long_side, out, measure)
    about: dict[str, object] = {"purify": purify or "none", "segment": segment, "classify": classify or "none"}
    about |= {"masks": sum(one.mask is not None for one in found.samples)}
    about |= {"diagnoses": sum(one.diagnosis is not None for one in found.samples)}
    about |= output.missing_classes(names, found.samples) | _groups(rows, groups)
    output.show(
        "chain", "the chain", len(found.samples), figures, as_json=as_json, about=about, left_out=found.left_out
    )


@app.command("enhance")
def evaluate_enhance(
    images: Images,
    model: Model = None,
    masks: Annotated[Path | None, typer.Option(help="Experts' masks, to measure on the lesions' regions.")] = None,
    degradation: Annotated[
        Degradation,
        typer.Option(
            help="How images are degraded: bicubic; mean of squares; with blur, noise and JPEG, mild or strong."
        ),
    ] = Degradation.PLAIN,
    scale: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="By how much images are reduced and enlarged again, if not by as much as the model enlarges: "
            "what that makes is then halved, as a worker halves it.",
        ),
    ] = None,
    partial: Partial = False,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """PSNR and SSIM of images reduced and enhanced again, compared with bicubic interpolation."""
    from lesionnets.data.batches.lesion_crops import named_lesion_crops  # noqa: PLC0415
    from lesionnets.evaluation import enhance, samples  # noqa: PLC0415
    from lesionnets.evaluation.models import predictors  # noqa: PLC0415

    found = samples.with_masks(images, masks, partial=partial) if masks else samples.pictures(images)
    model = model or predictors.default_model(Stage.ENHANCE)
    run = predictors.load_model(model, Stage.ENHANCE)
    crops = (
        named_lesion_crops(found.samples)
        if masks
        else [(one.image_id, samples.read_picture(one.image)) for one in found.samples]
    )
    rows: Rows = []
    enlarging, wanted = enhance.enlarging(run, scale)
    figures = enhance.measure(enlarging, [crop for _, crop in crops], how=degradation, scale=wanted, rows=rows)
    output.write_rows(out, [{"image_id": name, **row} for (name, _), row in zip(crops, rows, strict=True)])
    about = {"regions": "lesions" if masks else "whole images", "degradation": str(degradation), "scale": wanted}
    output.show("enhance", model, len(crops), figures, as_json=as_json, about=about, left_out=found.left_out)


@app.command("purify")
def evaluate_purify(
    images: Annotated[
        list[Path] | None, typer.Option(help="Folder of images to draw on; may be given several times.")
    ] = None,
    model: Model = None,
    covered: Annotated[
        Path | None, typer.Option(help="Real pictures with hair, instead of --images; with --clean.")
    ] = None,
    clean: Annotated[
        Path | None, typer.Option(help="The same pictures without hair, with the same file names.")
    ] = None,
    masks: Annotated[
        Path | None, typer.Option(help="Experts' masks, to measure what segmentation gains, too.")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="CSV file as for evaluate classify, to measure what diagnoses gain, too.")
    ] = None,
    split: Split = None,
    segment: Segmenter = None,
    classify: Classifier = None,
    classes: Classes = None,
    count: Annotated[
        int,
        typer.Option(min=1, help="Number of images to measure errors on: those with the least hair of their own."),
    ] = 40,
    occlusions: Annotated[
        str, typer.Option(help="What to draw, separated by commas; each is measured separately.")
    ] = "hair",
    drawings: Annotated[
        int, typer.Option(min=1, help="Times that hairs are drawn to measure what other stages gain.")
    ] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the drawings.")] = 0,
    native: Native = False,
    partial: Partial = False,
    long_side: LongSide = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Errors inside and outside occlusions, before and after purification, and what other stages gain."""
    sides(long_side)
    not_over(out, labels)
    if covered or clean:
        if images or masks or labels or not (covered and clean):
            raise UsageError(
                "real pairs are measured on their own: give --covered DIR and --clean DIR, but not "
                "--images, --masks or --labels"
            )
        _evaluate_pairs(covered, clean, model, native=native, long_side=long_side, out=out, as_json=as_json)
        return
    if not images:
        raise UsageError("name images to draw on with --images DIR, or real pairs with --covered and --clean")
    if labels and not masks:
        raise UsageError("diagnoses are measured together with masks; also name --masks")
    if masks and long_side:
        raise UsageError("what other stages gain is measured as served: leave out --long-side or --masks")
    from lesionnets.evaluation import downstream, purify, samples  # noqa: PLC0415
    from lesionnets.evaluation.models import predictors  # noqa: PLC0415
    from lesionnets.evaluation.segment import reduced  # noqa: PLC0415

    kinds = purify.drawn_kinds(listed(occlusions))
    found = samples.with_masks(images, masks, partial=partial) if masks else samples.pictures(images)
    model = model or predictors.default_model(Stage.PURIFY)
    if labels:
        classify = classify or predictors.default_model(Stage.CLASSIFY)
        diagnosed = samples.with_diagnoses(images, labels, masks=masks, split=split)
        _refuse_labels(classify, classes, diagnosed)
    run = predictors.load_model(model, Stage.PURIFY)
    segment = segment or predictors.default_model(Stage.SEGMENT)
    segmenter = predictors.load_model(segment, Stage.SEGMENT) if masks else None
    classifier = predictors.load_model(classify, Stage.CLASSIFY) if classify and labels else None
    clear = purify.least_covered(found.samples, count)

    def measure(side: int | None, rows: Rows) -> dict[str, Figure]:
        pictures = [run.fitted(reduced(image, side), native=native) for _, image in clear]
        figures: dict[str, Figure] = {}
        for kind in kinds:
            part: Rows = []
            cases = purify.drawn_cases(pictures, kind, seed=seed)
            measured = purify.measure(lambda image: run(IMAGE=image)["PURIFIED"], cases, rows=part)
            rows += [
                {"image_id": name, "occlusion": kind, **row} for (name, _), row in zip(clear, part, strict=True)
            ]
            figures |= {f"{kind}_{name}": figure for name, figure in vars(measured).items()}
        return figures

    figures, _ = _swept(long_side, out, measure)
    about: dict[str, object] = {"resolution": output.resolution(native), "drawn_on": len(clear)}
    if segmenter is not None:
        if labels:
            found = diagnosed
        figures |= downstream.evaluate(
            run,
            segmenter,
            classifier,
            found.samples,
            classes=listed(classes),
            native=native,
            seed=seed,
            drawings=drawings,
            watched=output.watched("purify"),
        )
        about |= {"segment": segment, "classify": classify if labels else None, "drawings": drawings}
    output.show(
        "purify", model, len(found.samples), figures, as_json=as_json, about=about, left_out=found.left_out
    )


def _evaluate_pairs(
    covered: Path,
    clean: Path,
    model: str | None,
    *,
    native: bool,
    long_side: str | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Error inside and outside of real hair."""
    from lesionnets.evaluation import purify  # noqa: PLC0415
    from lesionnets.evaluation.models import predictors  # noqa: PLC0415
    from lesionnets.evaluation.segment import reduced  # noqa: PLC0415

    pairs, left_out = purify.real_pairs(covered, clean)
    model = model or predictors.default_model(Stage.PURIFY)
    run = predictors.load_model(model, Stage.PURIFY)
    hairy: dict[int | None, int] = {}

    def measure(side: int | None, rows: Rows) -> dict[str, Figure]:
        part: Rows = []
        cases = purify.read_pairs(pairs, lambda image: run.fitted(reduced(image, side), native=native))
        hairy[side] = len(cases)
        figures = vars(purify.measure(lambda image: run(IMAGE=image)["PURIFIED"], list(cases.values()), rows=part))
        rows += [{"image_id": name, **row} for name, row in zip(cases, part, strict=True)]
        return dict(figures)

    figures, _ = _swept(long_side, out, measure)
    count = min(hairy.values())
    if count < len(pairs):
        left_out |= {"pairs with hardly any hair": len(pairs) - count}
    about: dict[str, object] = {"resolution": output.resolution(native), "pairs": "real"}
    output.show("purify", model, count, figures, as_json=as_json, about=about, left_out=left_out)
