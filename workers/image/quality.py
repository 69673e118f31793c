"""Quality flags: what a reader should know before trusting a result."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from dermbatch.records.outcome import ClassifyOutput, PurifyOutput, QualityFlag, SegmentOutput, StageOutput

HEAVILY_OCCLUDED = 0.15
"""Share of the image taken for hair, ruler or ink, from which it is flagged."""

LOW_CONFIDENCE = 0.75
"""Segmentation: mean of ``|2p - 1|`` below which it is flagged. 0.75: pixels near the lesion are at p = 0.125 or
0.875 on average."""

LOW_LEAD = 0.2
"""Classification: lead over chance, ``(p - 1/C) / (1 - 1/C)`` of the most probable of C classes, below which it is
flagged. 0.2 is p = 0.47 of three classes."""


def quality_flags(
    outputs: Iterable[StageOutput],
    *,
    may_have_text: bool = False,
) -> tuple[QualityFlag, ...]:
    """The flags that the stages' outputs raise, each at most once; those known before come first."""
    known: tuple[QualityFlag, ...] = ("burned_in_text",) if may_have_text else ()
    return tuple(dict.fromkeys([*known, *(flag for output in outputs for flag in _raised(output))]))


def _raised(output: StageOutput) -> Iterator[QualityFlag]:
    match output:
        case PurifyOutput() if output.occluded_fraction >= HEAVILY_OCCLUDED:
            yield "heavily_occluded"
        case SegmentOutput():
            if output.lesion is None:
                yield "no_lesion"
            elif output.lesion.components > 1:
                yield "several_lesions"
            if output.touches_frame:
                yield "touches_frame"
            if output.confidence < LOW_CONFIDENCE:
                yield "low_confidence"
        case ClassifyOutput(label=None):
            yield "not_dermoscopic"
        case ClassifyOutput() if _lead(output) < LOW_LEAD:
            yield "low_confidence"


def _lead(output: ClassifyOutput) -> float:
    classes = len(output.probabilities)
    if classes == 1 or output.label is None:
        return 1.0
    chance = 1 / classes
    return (output.probabilities[output.label] - chance) / (1 - chance)
