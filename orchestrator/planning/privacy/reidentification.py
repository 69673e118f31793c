"""The way back: who is behind a pseudonym, in a table that only the holder of a private key can open.

Rows are sealed with a public key (X25519 and XSalsa20-Poly1305, libsodium's sealed box): whoever writes the table
cannot read it again. Nothing of it is written before it is sealed.
"""

from __future__ import annotations

import os
import zlib
from base64 import b64decode, b64encode
from collections.abc import Iterator
from pathlib import Path

from nacl.exceptions import CryptoError
from nacl.public import PrivateKey, PublicKey, SealedBox
from pydantic import Field, ValidationError

from dermbatch import layout
from dermbatch.errors import DermbatchError, UsageError
from dermbatch.records.asked import Record
from dermbatch.store import ObjectStore

_OCTETS = "application/octet-stream"


class WrongKey(DermbatchError):
    """A sealed table does not open with this key, or is damaged."""

    reason = "wrong_key"


class OriginalRow(Record):
    """What one image of a batch was."""

    index: int
    name: str
    original: str
    pseudonym: str | None = None
    patient: str = ""
    issuer: str = ""
    uids: dict[str, str] = Field(default={}, description="new UID to old")
    days: int = 0


def new_keys() -> tuple[str, str]:
    """A new pair: the private key, then the public one; Base64."""
    private = PrivateKey.generate()
    return b64encode(bytes(private)).decode(), b64encode(bytes(private.public_key)).decode()


def write_key(path: Path, private: str) -> None:
    """Write a private key into a new file that only its owner can read.

    Raises:
        UsageError: If it cannot be written, or there is a file.
    """
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise UsageError(
            f"there is a file {path} already; keys are never overwritten; choose another file"
        ) from None
    except OSError as error:
        raise UsageError(f"the key cannot be written to {path}: {error.strerror}") from error
    with os.fdopen(handle, "w") as file:
        file.write(private + "\n")


def read_key(path: Path) -> PrivateKey:
    """The private key of a file.

    Raises:
        UsageError: If there is none in it.
    """
    try:
        return PrivateKey(b64decode(path.read_bytes().strip(), validate=True))
    except OSError as error:
        raise UsageError(f"the key {path} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, CryptoError) as error:
        raise UsageError(f"{path} is not a private key; dermbatch keys new creates one") from error


def public_key(text: str) -> PublicKey:
    """The key of a setting.

    Raises:
        UsageError: If it is none.
    """
    try:
        return PublicKey(b64decode(text.strip(), validate=True))
    except (ValueError, TypeError, CryptoError) as error:
        raise UsageError(
            "DERMBATCH_PRIVACY__PUBLIC_KEY is not a public key; dermbatch keys new creates one"
        ) from error


def sealed(rows: list[OriginalRow], key: PublicKey) -> bytes:
    """Rows as JSON lines, compressed and sealed."""
    lines = b"".join(row.to_json() + b"\n" for row in rows)
    return bytes(SealedBox(key).encrypt(zlib.compress(lines)))


def opened(body: bytes, key: PrivateKey) -> list[OriginalRow]:
    """Rows again.

    Raises:
        WrongKey: If they do not open.
    """
    try:
        lines = zlib.decompress(SealedBox(key).decrypt(body))
        return [OriginalRow.model_validate_json(line) for line in lines.splitlines()]
    except (CryptoError, zlib.error, ValidationError):  # raised without the cause, which may quote what was opened
        raise WrongKey("the sealed table is damaged, or this is not the key for it") from None


def write_rows(store: ObjectStore, bucket: str, batch: str, rows: list[OriginalRow], key: PublicKey) -> None:
    """Write consecutive rows; writing them again replaces them."""
    store.put(layout.originals(batch, rows[0].index), sealed(rows, key), _OCTETS, bucket=bucket)


def stored_parts(store: ObjectStore, bucket: str, batch: str) -> Iterator[bytes]:
    """The parts of the table of a batch, still sealed, in its order."""
    for info in store.list(bucket, layout.originals_prefix(batch)):
        yield store.get(bucket, info.key)


def fetched_parts(folder: Path, batch: str) -> Iterator[bytes]:
    """The same from a folder of results."""
    for path in sorted((folder / layout.originals_prefix(batch)).glob("*.sealed")):
        yield path.read_bytes()
