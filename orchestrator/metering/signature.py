"""Signatures of reports: the public key proves that report and usage are what was written at closing.

Ed25519 (RFC 8032) by libsodium, over the digests of the files, the batch's name and when it was asked for.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from nacl.encoding import HexEncoder
from nacl.exceptions import BadSignatureError, CryptoError
from nacl.signing import SigningKey, VerifyKey
from pydantic import Field, SecretStr

from dermbatch import layout
from dermbatch.errors import ObjectNotFound, UsageError
from dermbatch.records.asked import Stored

KEY_FILE = "report-signing.key"
"""File name of the key in the home of a local stack."""

_CONTEXT = b"dermbatch report 1\n"  # so that no signature of anything else can be passed off as a report signature


class ReportSignature(Stored):
    """The signature of a batch's report; ``batches/<batch>/report.sig.json``."""

    batch: str
    created: datetime
    files: dict[str, str] = Field(description="SHA-256 by key")
    public_key: str = Field(description="hexadecimal")
    signature: str = Field(description="hexadecimal")

    def message(self) -> bytes:
        """The bytes that are signed."""
        content = {"batch": self.batch, "created": self.created.isoformat(), "files": self.files}
        return _CONTEXT + json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def signed(batch: str, created: datetime, files: dict[str, bytes], key: SigningKey) -> ReportSignature:
    """Sign files, given by their keys; the same each time."""
    digests = {name: hashlib.sha256(body).hexdigest() for name, body in files.items()}
    public = key.verify_key.encode(HexEncoder).decode()
    unsigned = ReportSignature(batch=batch, created=created, files=digests, public_key=public, signature="")
    signature = key.sign(unsigned.message()).signature.hex()
    return unsigned.model_copy(update={"signature": signature})


def wrong(
    signature: ReportSignature, batch: str, read: Callable[[str], bytes | None], public: str | None
) -> list[str]:
    """What speaks against a signature, in sentences; empty if nothing does.

    Args:
        signature: The signature.
        batch: Whose it should be.
        read: Reads the file with a key; gives none if it cannot be looked at here.
        public: The public key that it should be made with, hexadecimal; none if any will do.
    """
    found = []
    if public is not None and public.lower() != signature.public_key.lower():
        found.append(f"it is signed with another key, {signature.public_key}")
    try:
        VerifyKey(signature.public_key.encode(), HexEncoder).verify(
            signature.message(), bytes.fromhex(signature.signature)
        )
    except (BadSignatureError, CryptoError, ValueError, TypeError):
        found.append("the signature does not hold: it, or what it says, was changed")
    if signature.batch != batch:
        found.append(f"it is the signature of batch {signature.batch}")
    if layout.report(batch) not in signature.files:
        found.append("it does not say what the report was")
    for key, digest in signature.files.items():
        try:
            body = read(key)
        except ObjectNotFound:
            found.append(f"{key} is gone")
            continue
        if body is not None and hashlib.sha256(body).hexdigest() != digest:
            found.append(f"{key} is not what was signed")
    return found


def signing_key(text: SecretStr) -> SigningKey:
    """The key of a setting.

    Raises:
        UsageError: If it is not a key.
    """
    try:
        return SigningKey(text.get_secret_value().strip().encode(), HexEncoder)
    except (CryptoError, ValueError, TypeError):  # without the cause: it may quote the key
        wanted = "64 hexadecimal digits, as openssl rand -hex 32 gives"
        raise UsageError(f"DERMBATCH_METERING__SIGNING_KEY is not a key: {wanted}") from None


def kept_key(home: Path) -> SecretStr:
    """The key of a local stack, created if there is none yet."""
    path = home / KEY_FILE
    if not path.exists() or not path.stat().st_size:
        begun = path.with_name(f"{KEY_FILE}.{os.getpid()}")  # so that a kill never leaves half a key
        begun.touch(mode=0o600)
        begun.write_text(bytes(SigningKey.generate()).hex(), encoding="ascii")
        begun.rename(path)
    return SecretStr(path.read_text(encoding="ascii"))


def public_of(key: SecretStr) -> str:
    """The public half of a key, hexadecimal; raises as :func:`signing_key`."""
    return str(signing_key(key).verify_key.encode(HexEncoder).decode())
