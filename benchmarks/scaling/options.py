"""What a simulation is told: the scaling rules, how long things take, what they cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from dermbatch.records.asked import BatchSummary
from dermbatch.settings import LedgerSettings, WorkerSettings

RULES = Path(__file__).parents[2] / "deploy" / "prometheus" / "scaling.yaml"

_CHANGEABLE = ("min_replicas", "max_replicas", "cooldown", "scale_down_after")


@dataclass(frozen=True)
class Trigger:
    """A query that scaling asks, and what follows from its answer; as in ``scaling.yaml``."""

    name: str
    metric_type: str
    threshold: float
    activation: float


@dataclass(frozen=True)
class Target:
    """What is scaled; times in seconds."""

    name: str
    min_replicas: int
    max_replicas: int
    cooldown: float
    scale_down_after: float
    triggers: tuple[Trigger, ...]


@dataclass(frozen=True)
class Rules:
    """All targets, and how often they are looked at (seconds)."""

    targets: dict[str, Target]
    polling: float


@dataclass(frozen=True)
class Speed:
    """How long one image takes, in seconds.

    Attributes:
        worker: Of a worker slot outside Triton: reading, decoding, scaling, encoding, writing. The default is the
            CPU time outside Triton of docs/performance.md, for a pod with a CPU for each slot.
        triton: Of a Triton server, all stages together. **The default is assumed**, no GPU has been measured:
            docs/performance.md has 0.28 s for one CPU core.
        slots: Images at a time in one worker.
    """

    worker: float = 0.14
    triton: float = 0.05
    slots: int = WorkerSettings.model_fields["concurrency"].default


@dataclass(frozen=True)
class Times:
    """How long a cluster takes, in seconds.

    Attributes:
        gpu_node, cpu_node: From the order of a node until pods run on it.
        pod: Of a worker from its node's being there until it takes images; its image is there.
        triton: Of a Triton server likewise: engines are loaded and warm.
        node_idle: After which an empty node is given back.
        grace: Of a worker that is scaled away.
        lease: After which images of a lost worker are taken up again.
        seen_late: From the state of the work to its being known to scaling: scrape, then rule.
    """

    gpu_node: float = 240
    cpu_node: float = 90
    pod: float = 10
    triton: float = 60
    node_idle: float = 600
    grace: float = WorkerSettings.model_fields["grace"].default
    lease: float = LedgerSettings.model_fields["lease"].default
    seen_late: float = 30


@dataclass(frozen=True)
class NodePrices:
    """Of one node for an hour, in whatever currency, and how many workers a CPU node takes."""

    gpu_node: float = 2.50
    cpu_node: float = 0.40
    workers_on_a_node: int = 2


@dataclass(frozen=True)
class Options:
    """All of it.

    Attributes:
        rules, speed, times, prices: As above.
        bulk_share: Of what workers begin while live images wait, too.
        workers_wait: Whether a worker that starts waits until there is a Triton server, as the chart has it.
    """

    rules: Rules
    speed: Speed = Speed()
    times: Times = Times()
    prices: NodePrices = NodePrices()
    bulk_share: float = LedgerSettings.model_fields["bulk_share"].default
    workers_wait: bool = True


def read_rules(path: Path = RULES) -> Rules:
    """The rules of a file such as ``deploy/prometheus/scaling.yaml``."""
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    return Rules(
        {name: _target(name, how) for name, how in document["targets"].items()}, float(document["polling"])
    )


def changed(rules: Rules, changes: Sequence[str]) -> Rules:
    """Rules with some figures changed.

    Args:
        rules: As they were.
        changes: Each ``target.field=value`` or ``target.trigger.threshold=value``.

    Raises:
        ValueError: Where there is no such figure.
    """
    targets = dict(rules.targets)
    for change in changes:
        path, _, value = change.partition("=")
        match path.split("."):
            case [name, field] if name in targets and field in _CHANGEABLE:
                figure = int(value) if field.endswith("replicas") else float(value)
                targets[name] = replace(targets[name], **{field: figure})  # type: ignore[arg-type]
            case [name, trigger, "threshold"] if name in targets:
                targets[name] = _with_threshold(targets[name], trigger, float(value))
            case _:
                raise ValueError(f"{change!r}: give TARGET.FIELD=N with a field of {', '.join(_CHANGEABLE)}")
    return Rules(targets, rules.polling)


def measured(summary: bytes, slots: int) -> Speed:
    """The speed that a closed batch had.

    Where several images were at work at a time, times of stages include waiting for Triton, so take a batch that
    was run with one worker slot.

    Args:
        summary: Its ``summary.json``.
        slots: Images at a time in one worker, in the simulation.

    Raises:
        ValueError: Where no stage of it was run.
    """
    batch = BatchSummary.model_validate_json(summary)
    ran = max(batch.stage_runs.values(), default=0)
    if not ran:
        raise ValueError(f"batch {batch.name!r} ran no stage: everything was known before")
    stages = sum(batch.stage_seconds[stage] * runs for stage, runs in batch.stage_runs.items() if runs) / ran
    return Speed(worker=max(1e-3, batch.image_seconds - stages), triton=stages, slots=slots)


def _target(name: str, how: Mapping[str, Any]) -> Target:
    triggers = tuple(
        Trigger(trigger["name"], trigger["metric_type"], float(trigger["threshold"]), float(trigger["activation"]))
        for trigger in how["triggers"]
    )
    return Target(
        name,
        int(how["min_replicas"]),
        int(how["max_replicas"]),
        float(how["cooldown"]),
        float(how["scale_down_after"]),
        triggers,
    )


def _with_threshold(target: Target, trigger: str, threshold: float) -> Target:
    if trigger not in {known.name for known in target.triggers}:
        raise ValueError(f"{target.name} has no trigger {trigger!r}")
    triggers = tuple(
        replace(known, threshold=threshold) if known.name == trigger else known for known in target.triggers
    )
    return replace(target, triggers=triggers)
