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
        prices: None where none are set: then nothing costs anything.
        key: That reports are signed with; none where they are not.
    """

    prices: Prices | None = None
    key: SigningKey | None = None

    @classmethod
    def of(cls, settings: MeteringSettings) -> Self:
        """Those of the settings; raises :class:`UsageError` where one cannot be."""
        return cls(
            load_prices(settings.prices) if settings.prices is not None else None,
            signing_key(settings.signing_key) if settings.signing_key is not None else None,
        )
