"""Pseudonyms: keyed digests, so that an original has the same one in all batches and processes.

All are HMAC-SHA-256 (RFC 2104) under the salt, each kind with a prefix of its own. Without the salt nobody can
find the original by trying names, and another salt changes all pseudonyms.
"""

from __future__ import annotations

import hashlib
import hmac
import uuid

from pydantic import SecretStr

from dermbatch.errors import UsageError

LEAST_SALT = 16
"""Least length of a salt; shorter ones could be guessed."""
_LONGEST_SHIFT = 3650


class Pseudonyms:
    """The pseudonyms of originals under one salt.

    Args:
        salt: ``DERMBATCH_PRIVACY__SALT``.

    Raises:
        UsageError: If there is none, or it is too short.
    """

    def __init__(self, salt: SecretStr | None) -> None:
        if salt is None:
            raise UsageError(
                "de-identification needs a secret salt: set DERMBATCH_PRIVACY__SALT, always to the same value "
                "(docs/privacy.md)"
            )
        self._key = salt.get_secret_value().encode()
        if len(self._key) < LEAST_SALT:
            raise UsageError(f"DERMBATCH_PRIVACY__SALT is too short: take at least {LEAST_SALT} characters")

    @property
    def fingerprint(self) -> str:
        """Tells salts apart without giving them away; 16 hexadecimal digits."""
        return self._digest("fingerprint", b"").hex()[:16]

    def patient(self, issuer: str, identifier: str) -> str:
        """The pseudonym of a patient, by Issuer of Patient ID and Patient ID: ``P-`` and 20 hexadecimal digits."""
        return f"P-{self._digest('patient', _joined(issuer, identifier)).hex()[:20]}"

    def uid(self, original: str) -> str:
        """The pseudonym of a UID: another one under ``2.25.`` (PS3.5, annex B.2)."""
        return f"2.25.{uuid.UUID(bytes=self._digest('uid', original.encode())[:16], version=4).int}"

    def days(self, patient: str) -> int:
        """The number of days by which the dates of a patient are shifted: 1 to 3,650 into the past.

        Args:
            patient: The pseudonym.
        """
        return -1 - int.from_bytes(self._digest("days", patient.encode())[:8], "big") % _LONGEST_SHIFT

    def content(self, data: bytes) -> str:
        """The pseudonym of a file, from its content; 20 hexadecimal digits."""
        return self._digest("content", hashlib.sha256(data).digest()).hex()[:20]

    def name(self, original: str) -> str:
        """The pseudonym of a path, an object's key or any other name; 20 hexadecimal digits."""
        return self._digest("name", original.encode("utf-8", "surrogateescape")).hex()[:20]

    def key(self, purpose: str) -> bytes:
        """32 bytes to encrypt with, for one purpose."""
        return self._digest("key", purpose.encode())

    def _digest(self, kind: str, what: bytes) -> bytes:
        return hmac.digest(self._key, kind.encode() + b"\0" + what, "sha256")


def _joined(*parts: str) -> bytes:
    """Parts as one, no two lists alike."""
    return b"".join(len(part.encode()).to_bytes(4, "big") + part.encode() for part in parts)
