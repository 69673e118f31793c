"""Quotas of rules' tenants: what is taken in reserves room, or waits in the bucket until there is some."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

import structlog

from dermbatch import metrics
from dermbatch.errors import UsageError
from dermbatch.settings import Settings
from dermbatch.store import ObjectStore
from orchestrator.planning.tenants.quota import reservations
from orchestrator.planning.tenants.reservation import QuotaSpent, Reservation, note_watching
from orchestrator.planning.tenants.tenant import Quota, tenant_of
from orchestrator.watching.taking.gathering import Gathering

_log = structlog.get_logger(__name__)


class Quotas:
    """Says how much may be taken in now. A tenant on hold is checked again at the next listing.

    Args:
        settings: Settings that name the file of tenants, which is read again at each listing.
        store: Where reservations are.
        tenants: Those of the rules.
    """

    def __init__(self, settings: Settings, store: ObjectStore, tenants: Iterable[str]) -> None:
        self._settings = settings
        self._store = store
        self._quotas = {tenant: Quota() for tenant in tenants}
        self._reservations: dict[str, tuple[str, Reservation]] = {}
        self._why: dict[str, str] = {}
        self.read()

    @property
    def held(self) -> Mapping[str, str]:
        """Tenants that nothing is taken in for, each with why."""
        return self._why

    def read(self) -> None:
        """A listing begins: ask all again. Of a file that cannot be read, what it was before stays in force."""
        self._why = {}
        try:
            for name in self._quotas:
                tenant = tenant_of(self._settings, name)
                self._quotas[name] = tenant.quota if tenant is not None else Quota()
        except UsageError as error:
            _log.warning("quotas not read", message=str(error))

    def has_room(self, tenant: str, name: str, now: datetime) -> bool:
        """Whether a batch that would begin now could have an image; else the tenant is held.

        Raises:
            StoreUnavailable, StoreRefused: If the store fails.
        """
        if self._quotas[tenant] != Quota():
            try:
                Reservation(self._store, tenant, name, now).look(self._quotas[tenant], 1, 1)
            except QuotaSpent as spent:
                self._why[tenant] = str(spent)
                return False
        return True

    def fitting(self, gathering: Gathering, sizes: Sequence[int]) -> int:
        """Reserve room for further images of a batch; the tenant is held from the first one that has none.

        Args:
            gathering: The batch.
            sizes: Bytes of each further image.

        Returns:
            How many of them may be added, in their order.

        Raises:
            StoreUnavailable, StoreRefused: Where the store fails.
        """
        tenant = gathering.batch.order.tenant
        if self._quotas[tenant] == Quota():
            return len(sizes)
        fit = len(sizes)
        while fit:
            images, size = gathering.images + fit, gathering.size + sum(sizes[:fit])
            try:
                self._reservation(gathering).take(self._quotas[tenant], images, size)
            except QuotaSpent as spent:
                self._why[tenant] = str(spent)
                fit = min(fit - 1, spent.fitting(gathering.images, gathering.size, sizes))
            else:
                break
        return fit

    def tell(self, objects: Counter[str]) -> None:
        """All was listed: say in metrics, log and the tenants' records who is held, and who no more.

        Args:
            objects: How many wait, by tenant.

        Raises:
            StoreUnavailable, StoreRefused: Where the store fails.
        """
        if self._settings.tenants.file is None:
            return
        for tenant in self._quotas:
            metrics.WATCH_HELD_OBJECTS.labels(tenant).set(objects[tenant])
            why = self._why.get(tenant)
            noted = reservations(self._store, tenant)[0].watching is not None
            if (why is not None) == noted:
                continue
            note_watching(self._store, tenant, why)
            if why is not None:
                _log.warning("quota spent", tenant=tenant, objects=objects[tenant], message=why)
            else:
                _log.info("quota allows again", tenant=tenant)

    def _reservation(self, gathering: Gathering) -> Reservation:
        """The one of a batch; of each rule, that of its last batch is kept."""
        batch = gathering.batch
        rule = batch.rule or ""
        if self._reservations.get(rule, ("",))[0] != batch.name:
            made = Reservation(self._store, batch.order.tenant, batch.name, batch.created)
            self._reservations[rule] = batch.name, made
        return self._reservations[rule][1]
