"""Damaged DICOM files and archives, thousands of them: each has to end as an image or as a refusal, and soon.

``python -m tests.fuzzing --cases 100000 --seed 7`` looks further than the tests do; a file that breaks a reader
is left in the folder of ``--keep``. Each case found so belongs into :mod:`tests.corpus` or a test of its own.
"""

from __future__ import annotations

import argparse
import random
import resource
import sys
import time
import zipfile
from collections import Counter
from pathlib import Path

from dermbatch.archives.archive import members
from dermbatch.errors import BadInput
from dermbatch.images.dicomhead import referenced_files
from dermbatch.images.imagefile import read_image
from dermbatch.settings import ArchiveSettings
from orchestrator.planning.intake.frames import count_frames
from tests import corpus

LONGEST = 10.0
"""Seconds that one file may take, on a busy machine."""
MEMORY = 4 << 30
"""Bytes of address space, the libraries' own among them."""

# Headers say what comes of the rest: element tags (rows, frames, items, transfer syntax ...), records of a zip.
_MARKS = [
    *(bytes.fromhex(tag) for tag in ("28000800", "28001000", "28000200", "28000400", "28000001", "28000101")),
    *(bytes.fromhex(tag) for tag in ("e07f1000", "feff00e0", "02001000", "08001600", "04002012")),
    *(b"PK\x01\x02", b"PK\x05\x06", b"PK\x03\x04"),
]


def seeds() -> tuple[list[bytes], list[bytes]]:
    """DICOM files and archives to damage."""
    shared = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "dicom_testfiles"
    real = [path.read_bytes() for path in sorted(shared.glob("*.dcm")) if path.stat().st_size < 300_000]
    files = [*(data for data, _ in corpus.dicoms().values()), corpus.dicomdir(("A", "B"), ("C",)), *real]
    archives = [data for data, _ in (corpus.zips() | corpus.tars()).values()]
    others = (zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2)
    archives += [corpus.zipped({"a.png": corpus.picture("PNG")}, method) for method in others]
    return files, archives


def damaged(data: bytes, chance: random.Random) -> bytes:
    """A few bytes changed, copied or lost, most of them in headers."""
    body = bytearray(data)
    for _ in range(chance.randint(1, 8)):
        if not body:
            break
        kind, where = chance.random(), int(chance.random() ** 3 * len(body))
        if kind < 0.35:
            body[where] = chance.randrange(256)
        elif kind < 0.7:
            found = body.find(chance.choice(_MARKS))
            if found >= 0:
                value = chance.choice([0, 1, 127, 128, 255, chance.randrange(256)])
                body[min(len(body) - 1, found + chance.randint(4, 30))] = value
        elif kind < 0.8:
            del body[int(chance.random() * len(body)) :]
        elif kind < 0.9:
            body[where:where] = body[where : where + chance.randint(1, 64)]
        else:
            del body[where : where + chance.randint(1, 64)]
    return bytes(body)


def outcome_of_file(data: bytes, chance: random.Random) -> str:
    """What a DICOM file comes to: as what the intake counts, a DICOMDIR, and an image."""
    try:
        count = count_frames(lambda length: data[:length], len(data))
        list(referenced_files(data[:20_000]))
    except BadInput:
        count = 1
    try:
        read_image(data, max_pixels=1_000_000, frame=None if count == 1 else chance.randint(1, count))
    except BadInput as refused:
        return refused.reason
    return "ok"


def outcome_of_archive(data: bytes) -> str:
    """What an archive comes to; every member that can be read is."""
    try:
        for member in members(data, ArchiveSettings()):
            try:
                read_image(member.read(), max_pixels=1_000_000)
            except BadInput:
                continue
    except BadInput as refused:
        return refused.reason
    return "ok"


def main() -> None:
    """Raises what breaks a reader; ends with the outcomes, counted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path())
    asked = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    chance, outcomes = random.Random(asked.seed), Counter[str]()
    files, archives = seeds()
    for case in range(asked.cases):
        is_file = chance.random() < 0.6
        data, begun = damaged(chance.choice(files if is_file else archives), chance), time.monotonic()
        kept = asked.keep / f"fuzzed-{asked.seed}-{case}"
        kept.write_bytes(data)  # before it is read: a crash leaves no time
        outcomes[outcome_of_file(data, chance) if is_file else outcome_of_archive(data)] += 1
        if time.monotonic() - begun > LONGEST:
            sys.exit(f"case {case} took {time.monotonic() - begun:.1f} s; see {kept}")
        kept.unlink()
    print(dict(outcomes.most_common()))


if __name__ == "__main__":
    main()
