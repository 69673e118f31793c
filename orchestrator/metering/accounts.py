"""What closing needs to say what a batch costs, and to sign it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from nacl.signing import SigningKey

from dermbatch.settings import MeteringSettings
from orchestrator.metering.prices import Prices, load_prices
from orchestrator.metering.signature import signing_key


@dataclass(frozen=True)
class Accounts:
    """Price lists and key.

    Attributes:
        prices: Price lists; without any, nothing has a cost.
        key: Key that reports are signed with; none if they are not.
    """

    prices: Prices | None = None
    key: SigningKey | None = None

    @classmethod
    def of(cls, settings: MeteringSettings) -> Self:
        """The accounts of the settings; raises :class:`UsageError` if one is invalid."""
        return cls(
            load_prices(settings.prices) if settings.prices is not None else None,
            signing_key(settings.signing_key) if settings.signing_key is not None else None,
        )
