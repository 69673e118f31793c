"""``lesionnets evaluate oneshot``: figures of one-shot segmentation on labelled images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dermbatch.errors import UsageError
from lesionnets.commands import output
from lesionnets.commands.options import AsJson, Images, Labels, Map, Masks, Out, Split, not_over, renamed

Rows = list[dict[str, object]]


def evaluate_oneshot(
    images: Images,
    masks: Masks,
    labels: Labels,
    model: Annotated[
        str,
        typer.Option(help="segment_oneshot, which ships; a checkpoint (best.pt), or model.onnx in a repository."),
    ] = "segment_oneshot",
    unseen: Annotated[
        str | None,
        typer.Option(
            help="Measure only this diagnosis, with weights that never saw it; atypical counts as nevus."
        ),
    ] = None,
    shots: Annotated[int, typer.Option(min=1, help="Supports shown at a time.")] = 1,
    draws: Annotated[int, typer.Option(min=1, help="How often supports are drawn, for each diagnosis.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the draws.")] = 0,
    split: Split = None,
    rename: Map = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Overlap of the masks that a one-shot model finds when shown other pictures of the same diagnosis."""
    not_over(out, labels)
    from lesionnets.evaluation import oneshot, samples  # noqa: PLC0415
    from lesionnets.evaluation.models.shown import load_shown  # noqa: PLC0415

    found = samples.with_diagnoses(images, labels, masks=masks, split=split, renamed=renamed(rename))
    chosen = [one for one in found.samples if one.mask is not None and unseen in (None, one.diagnosis)]
    if not chosen:
        raise UsageError(f"no image of {unseen or 'any diagnosis'} has a mask in {masks}")
    loaded = load_shown(model, unseen)
    rows: Rows = []
    how = oneshot.SupportDraws(shots, draws, seed)
    figures = oneshot.evaluate(loaded, chosen, how, watched=output.watched("oneshot"), rows=rows)
    output.write_rows(out, rows)
    about: dict[str, object] = {
        "weights": Path(loaded.weights).name if loaded.unseen else loaded.weights,
        "unseen": unseen,
        "never_trained_on": loaded.unseen,
        "shots": shots,
        "draws": draws,
        "seed": seed,
    }
    left_out = found.left_out | {"images without a mask or of other diagnoses": len(found.samples) - len(chosen)}
    left_out = {what: count for what, count in left_out.items() if count}
    output.show("oneshot", model, len(rows), figures, as_json=as_json, about=about, left_out=left_out)
