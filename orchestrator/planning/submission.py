"""Submission: an order and its inputs, checked as a whole before anything is planned.

The commands and :mod:`dermbatch.client` go through here, so that what one of them refuses, all refuse.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dermbatch import layout
from dermbatch.audit import NO_AUDIT, Audit
from dermbatch.errors import UsageError
from dermbatch.records.asked import Batch, Filters, ModelChoice, Order, PlanRecord
from dermbatch.settings import Settings
from dermbatch.stages import ORDER, Stage, closure
from dermbatch.store import ObjectStore
from orchestrator.planning import deadline, destinations
from orchestrator.planning.estimate import Estimate, estimate
from orchestrator.planning.intake.intake import Intake
from orchestrator.planning.models import Offer
from orchestrator.planning.planner import is_batch, plan, planned
from orchestrator.planning.privacy.deidentifier import Deidentifier
from orchestrator.planning.privacy.profile import Profile, load_profile
from orchestrator.planning.resegment import Check, plan_resegment
from orchestrator.planning.support import fits
from orchestrator.planning.tenants.reservation import within
from orchestrator.planning.tenants.tenant import Tenant, tenant_of


@dataclass(frozen=True)
class Submission:
    """An order and inputs that can be planned.

    Attributes:
        order: What is asked.
        inputs: The inputs, as the user named them.
        intake: Walks them.
        deidentify: Makes copies of them, if a profile is asked for.
        tenant: The tenant, if tenants are declared.
    """

    order: Order
    inputs: tuple[str, ...]
    intake: Intake
    deidentify: Deidentifier | None
    tenant: Tenant | None = None

    def plan(
        self, name: str, store: ObjectStore, told: Callable[[PlanRecord], None] = lambda record: None
    ) -> Batch:
        """Make it a batch, as :func:`orchestrator.planning.planner.plan`; its tenant's quota may refuse it."""
        walk = self.intake.walk(self.inputs)
        with within(store, self.tenant, name) as check:
            return plan(name, self.order, walk, store, deidentify=self.deidentify, told=told, check=check)

    def estimate(
        self, store: ObjectStore, offer: Offer, *, slots: int, price: float | None, gpus: int
    ) -> Estimate:
        """What it would come to if begun now; as :func:`orchestrator.planning.estimate.estimate`."""
        return estimate(
            self.order.model_copy(update={"models": offer.check(self.order.models)}),
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
    offer: Offer | None,
    *,
    filters: Filters,
    profile: Path | Profile | None = None,
    in_place: bool = True,
    local: bool = False,
    leave_out: Path | None = None,
    audit: Audit = NO_AUDIT,
    own: Collection[str] = (),
) -> Submission:
    """Check a request; nothing is written, and no image is read.

    Args:
        order: What is asked.
        inputs: Files, folders, archives, ``s3://bucket/prefix``.
        settings: With the PACS, the limits and what de-identification needs.
        source: The store that ``s3://`` inputs are read from and the output is in, if there is one.
        offer: The available models; none if the order has been checked already, as the orders of rules are.
        filters: Which files and objects are meant.
        profile: The de-identification profile, or its file.
        in_place: Whether the workers can read ``source`` themselves.
        local: Whether they can read files of this machine.
        leave_out: A folder that is not walked.
        audit: Where reads of local files are noted.
        own: Inputs that the requester has uploaded, which lie in no tenant's prefix.

    Raises:
        UsageError: For a PACS, an output, a model, a filter, a profile or an input that is invalid or not the
            tenant's.
    """
    check_inputs(order, [given for given in inputs if given not in own], settings)
    deadline.check(order, datetime.now(UTC))
    if offer is not None:
        check(order, inputs, settings, source, offer)
    made = _unchecked(
        order,
        inputs,
        settings,
        source,
        filters=filters,
        profile=profile,
        in_place=in_place,
        local=local,
        leave_out=leave_out,
        audit=audit,
    )
    made.intake.check(inputs, quoting=made.deidentify is None)
    return made


def before(
    name: str,
    order: Order,
    inputs: Sequence[str],
    settings: Settings,
    store: ObjectStore,
    *,
    filters: Filters,
    profile: Path | None = None,
) -> Batch | None:
    """The batch that the very same order has already become; none if the name is free.

    Neither models nor inputs are checked, since they may be gone by now. Arguments as for :func:`prepare`.

    Raises:
        UsageError: If another order has the name.
    """
    if not is_batch(store, name):
        return None
    made = _unchecked(order, inputs, settings, store, filters=filters, profile=profile)
    return planned(name, made.order, made.intake.walk(inputs), store, made.deidentify)


def _unchecked(
    order: Order,
    inputs: Sequence[str],
    settings: Settings,
    source: ObjectStore | None,
    *,
    filters: Filters,
    profile: Path | Profile | None,
    in_place: bool = True,
    local: bool = False,
    leave_out: Path | None = None,
    audit: Audit = NO_AUDIT,
) -> Submission:
    if isinstance(profile, Path):
        profile = load_profile(profile)
    deidentify = Deidentifier(profile, settings) if profile is not None else None
    intake = Intake(
        settings,
        source,
        in_place=in_place and deidentify is None,
        local=local and deidentify is None,
        leave_out=leave_out,
        filters=filters,
        audit=audit,
        pseudonym=deidentify.pseudonym if deidentify is not None else None,
    )
    deidentified = deidentify.record if deidentify is not None else None
    made = order.model_copy(update={"deidentified": deidentified})
    return Submission(made, tuple(inputs), intake, deidentify, tenant_of(settings, order.tenant))


def again(
    name: str, order: Order, batches: Sequence[str], settings: Settings, store: ObjectStore, offer: Offer
) -> Batch:
    """Plan images of earlier batches again, as :func:`orchestrator.planning.resegment.plan_resegment`.

    Only the models that are named must exist: those of the earlier batches may be gone, their results are not.
    """
    offer.check(order.models)
    if Stage.SEGMENT in order.models:
        fits(order, offer)

    with ExitStack() as planning:

        def admit(whole: Order) -> tuple[Order, Check]:
            tenant = tenant_of(settings, whole.tenant)
            asked = whole if tenant is None else tenant.admitted(whole)
            return asked, planning.enter_context(within(store, tenant, name))

        return plan_resegment(name, order, batches, store, admit=admit)


def check(
    order: Order, inputs: Sequence[str], settings: Settings, store: ObjectStore | None, offer: Offer
) -> None:
    """Refuse what would make every image of a batch fail; arguments and errors as for :func:`prepare`."""
    destinations.check_destination(order.send_to, settings)
    if store is not None:
        destinations.check_output(order.output, inputs, store)
    offer.check(order.models)
    fits(order, offer)


def admitted(order: Order, settings: Settings) -> Order:
    """The order as its tenant may ask for it; unchanged if tenants are not declared.

    Raises:
        UsageError: If there is no such tenant, or it may not ask for this.
    """
    tenant = tenant_of(settings, order.tenant)
    return order if tenant is None else tenant.admitted(order)


def check_inputs(order: Order, inputs: Iterable[str], settings: Settings) -> None:
    """Refuse prefixes of the object store that are not the tenant's; errors as for :func:`admitted`."""
    tenant = tenant_of(settings, order.tenant)
    if tenant is not None:
        tenant.check_inputs(inputs)


def order(
    settings: Settings, stage_names: Iterable[str], models: Mapping[Stage, ModelChoice], **others: Any
) -> Order:
    """The order for a new batch.

    Args:
        settings: With the models of the stages that ``models`` leaves out.
        stage_names: What is to run; what a stage requires is added.
        models: Those that were chosen.
        others: Further fields of the order.

    Raises:
        UsageError: If a stage or another field is invalid, or the tenant may not ask for it.
    """
    wanted = [part for text in stage_names if (part := text.strip())]
    if unknown := [part for part in wanted if part not in set(ORDER)]:
        raise UsageError(f"no such stage: {', '.join(unknown)}; there are {','.join(ORDER)}")
    if not wanted:
        raise UsageError(f"no stage is given; choose from {','.join(ORDER)}")
    ordered = closure(frozenset(map(Stage, wanted)))
    chosen = {stage: {**settings.models, **models}[stage] for stage in ordered}
    try:
        return admitted(Order(stages=ordered, models=chosen, **others), settings)
    except ValidationError as error:
        wrong = error.errors(include_url=False)[0]
        raise UsageError(f"{'.'.join(map(str, wrong['loc']))}: {wrong['msg']}") from error


def new_name(given: str | None) -> str:
    """The name of a new batch; made from the time if none is given.

    Raises:
        UsageError: If no batch can have this name.
    """
    return layout.check_batch_name(given) if given else datetime.now(UTC).strftime("batch-%Y%m%d-%H%M%S")


def name_for(given: str | None, tenant: str, settings: Settings) -> str:
    """The same for a tenant's batch: if tenants are declared, it begins with the tenant's name and a dot.

    Raises:
        UsageError: As for :func:`new_name` and :func:`admitted`.
    """
    name = new_name(given)
    return name if tenant_of(settings, tenant) is None else layout.check_batch_name(layout.owned(name, tenant))
