"""The stage key: a digest of all that a stage's output depends on, like a build system's action key.

Equal keys under the same image mean equal artifacts, so a stage whose key already exists need not run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from dermbatch.records.outcome import ModelUsed
from dermbatch.stages import Stage

REVISIONS: dict[Stage, int] = {Stage.PURIFY: 3, Stage.SEGMENT: 3, Stage.ENHANCE: 1, Stage.CLASSIFY: 1}
"""Raised by one whenever the code around a stage's model changes the stage's output for the same input.

A change in how files are decoded changes the input of the first stages: then raise purify and segment.
"""

Parameters = Mapping[str, float | int | str | bool]


def stage_key(
    stage: Stage,
    model: ModelUsed,
    parameters: Parameters,
    fed_by: Mapping[Stage, str],
    *,
    revision: int | None = None,
) -> str:
    """Digest of everything but the source image that decides a stage's output.

    The source image itself is in the object's key (``images/<sha256>/``), beside this one.

    Args:
        stage: The stage.
        model: Name, version and file digest of the model that serves it.
        parameters: The stage's parameters, including defaults.
        fed_by: Stage keys of the artifacts that the stage takes in.
        revision: Revision of the code around the model; :data:`REVISIONS` where not given.

    Returns:
        32 hexadecimal digits (the first half of a SHA-256).
    """
    decided_by = {
        "stage": str(stage),
        "model": [model.name, model.version, model.sha256],
        "parameters": dict(parameters),
        "fed_by": {str(fed): key for fed, key in fed_by.items()},
        "revision": REVISIONS[stage] if revision is None else revision,
    }
    text = json.dumps(decided_by, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
