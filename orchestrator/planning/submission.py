"""Submission: an order and its inputs, looked at as a whole before anything is planned.

The commands and :mod:`dermbatch.client` go through here, so that what one of them refuses, all refuse.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from dermbatch import layout
from dermbatch.audit import NO_AUDIT, Audit
from dermbatch.errors import UsageError
from dermbatch.records import Batch, Filters, Lane, ModelChoice, PlanRecord
from dermbatch.settings import Settings
from dermbatch.stages import ORDER, Stage, closure
from dermbatch.store import ObjectStore
from orchestrator.planning import delivery
from orchestrator.planning.estimate import Estimate, estimate
from orchestrator.planning.intake.intake import Intake
from orchestrator.planning.models import Offer
from orchestrator.planning.planner import Order, plan
from orchestrator.planning.privacy.profile import load_profile
from orchestrator.planning.privacy.taking import Deidentifier


@dataclass(frozen=True)
class Submission:
    """What can be planned.

    Attributes:
        order: What is asked.
        inputs: Of what, as the user named them.
        intake: Walks them.
        deidentify: Makes copies of them, where a profile is asked for.
        models: Those of the order, with the versions that would run now, as far as these are known.
    """

    order: Order
    inputs: tuple[str, ...]
    intake: Intake
    deidentify: Deidentifier | None
    models: dict[Stage, ModelChoice]

    def plan(self, store: ObjectStore, told: Callable[[PlanRecord], None] = lambda record: None) -> Batch:
        """Make it a batch; as :func:`orchestrator.planning.planner.plan`."""
        return plan(self.order, self.intake.walk(self.inputs), store, deidentify=self.deidentify, told=told)

    def estimate(self, store: ObjectStore, *, slots: int, price: float | None, gpus: int) -> Estimate:
        """What it would come to, begun now; as :func:`orchestrator.planning.estimate.estimate`."""
        return estimate(
            replace(self.order, models=self.models),
            self.intake.walk(self.inputs, unpack=False),
            store,
            now=datetime.now(UTC),
            slots=slots or None,
            price=price,
            gpus=gpus,
            deidentify=self.deidentify,
        )


def prepare(
    order: Order,
    inputs: Sequence[str],
    settings: Settings,
    source: ObjectStore | None,
    offer: Offer,
    *,
    filters: Filters,
    profile: Path | None = None,
    in_place: bool = True,
    leave_out: Path | None = None,
    audit: Audit = NO_AUDIT,
) -> Submission:
    """Look at what is asked; nothing is written, and no image is read.

    Args:
        order: What is asked.
        inputs: Files, folders, archives, ``s3://bucket/prefix``.
        settings: With the PACS, the limits and what de-identification needs.
        source: The store that ``s3://`` inputs are read from, and the output is in; none where there is none.
        offer: The models that there are.
        filters: Which files and objects are meant.
        profile: File of the profile to de-identify by.
        in_place: Whether the workers can read ``source`` themselves.
        leave_out: A folder not to walk into.
        audit: Where it is noted which local files are read.

    Raises:
        UsageError: For a PACS, an output, a model, a filter, a profile or an input that cannot be.
    """
    delivery.check_destination(order.send_to, settings)
    if source is not None:
        delivery.check_output(order.output, inputs, source)
    models = offer.check(order.models)
    deidentify = Deidentifier(load_profile(profile), settings) if profile is not None else None
    intake = Intake(
        settings,
        source,
        in_place=in_place and deidentify is None,
        leave_out=leave_out,
        filters=filters,
        audit=audit,
        pseudonym=deidentify.pseudonym if deidentify is not None else None,
    )
    intake.check(inputs, quoting=deidentify is None)
    return Submission(order, tuple(inputs), intake, deidentify, models)


def order(
    settings: Settings,
    name: str | None,
    stage_names: Iterable[str],
    models: Mapping[Stage, ModelChoice],
    *,
    lane: Lane = "bulk",
    weight: int = 1,
    max_failed_share: float | None = None,
    dicom: bool = False,
    send_to: str | None = None,
    output: str | None = None,
) -> Order:
    """The order for a new batch.

    Args:
        settings: With the models of the stages that ``models`` does not have.
        name: Of the batch; made from the time where none is given.
        stage_names: What is to run; what a stage requires is added.
        models: Those that were chosen.
        lane: As in the order, as are all below.
        weight: Share of the lane.
        max_failed_share: Of the outcomes, more than which pauses the batch.
        dicom: Whether DICOM objects are written; they are where they are sent.
        send_to: The PACS that they are sent to.
        output: ``s3://bucket/prefix`` that results are also copied under.

    Raises:
        UsageError: Where a stage or the name cannot be.
    """
    wanted = [part for text in stage_names if (part := text.strip())]
    if unknown := [part for part in wanted if part not in set(ORDER)]:
        raise UsageError(f"no such stage: {', '.join(unknown)}; there are {','.join(ORDER)}")
    if not wanted:
        raise UsageError(f"no stage is given; there are {','.join(ORDER)}")
    ordered = closure(frozenset(map(Stage, wanted)))
    return Order(
        batch=new_name(name),
        models={stage: {**settings.models, **models}[stage] for stage in ordered},
        stages=ordered,
        lane=lane,
        weight=weight,
        max_failed_share=max_failed_share,
        dicom=dicom or send_to is not None,
        send_to=send_to,
        output=output,
    )


def new_name(given: str | None) -> str:
    """The name of a new batch."""
    return layout.check_batch_name(given) if given else datetime.now(UTC).strftime("batch-%Y%m%d-%H%M%S")
