"""An answer as JSON, for commands and the API alike."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from dermbatch.records.outcome import ClassifyOutput, ResultRecord
from dermbatch.stages import Stage
from orchestrator.similar.answer import Answer, Neighbour


def values_of(record: ResultRecord, found: Answer) -> dict[str, Any]:
    """A whole answer: the image with its probabilities and regions, index and cases; boxes in pixels."""
    return {
        "image": {
            "batch": record.batch,
            "index": record.index,
            "name": record.name,
            "size": [record.source.width, record.source.height],
            "probabilities": probabilities(record),
            "regions": [
                {"region": number, "box": asdict(box), "weight": round(float(weight), 4)}
                for number, (box, weight) in enumerate(
                    zip(found.patterns.boxes, found.patterns.weights, strict=True)
                )
            ],
        },
        "index": {
            "version": found.version,
            "model": found.model.model_dump(),
            "cases": found.held,
            "not_held_yet": found.waiting,
        },
        "sure": found.sure,
        "why": found.why or None,
        "near": found.near,
        "cases": [_case(one) for one in found.neighbours],
    }


def probabilities(record: ResultRecord) -> dict[str, float]:
    """Of an image, by label; none where it was not classified."""
    stage = record.stages.get(Stage.CLASSIFY)
    output = None if stage is None else stage.output
    return output.probabilities if isinstance(output, ClassifyOutput) else {}


def _case(one: Neighbour) -> dict[str, Any]:
    told = asdict(one)
    facts = told.pop("facts")
    taken = facts.pop("taken")
    del facts["patient"], facts["lesion"]  # they tell cases apart, and are nothing to show
    return told | {"facts": facts | {"taken": taken.isoformat() if taken is not None else None}}
