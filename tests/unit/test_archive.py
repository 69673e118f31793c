"""Zip archives of strangers: every member answered for, none unpacked beyond the limits."""

from __future__ import annotations

import io
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dermbatch.archive import members, members_of
from dermbatch.errors import BadInput
from dermbatch.imagefile import read_image
from dermbatch.settings import ArchiveSettings
from tests import corpus

LIMITS = ArchiveSettings()
ZIPS = corpus.zips()


def outcomes(data: bytes, limits: ArchiveSettings = LIMITS) -> dict[str, str]:
    """What comes of each member: read as an image, or the reason why not."""
    found = {}
    for member in members_of(data, limits):
        try:
            read_image(member.read(), max_pixels=10**6)
        except BadInput as refused:
            found[member.name] = refused.reason
        else:
            found[member.name] = "ok"
    return found


@pytest.mark.parametrize("name", [name for name, (_, expected) in ZIPS.items() if isinstance(expected, dict)])
def test_every_member_has_its_outcome(name):
    data, expected = ZIPS[name]
    assert outcomes(data) == expected


def test_a_cut_archive_is_refused_as_a_whole(tmp_path):
    path = tmp_path / "cut.zip"
    path.write_bytes(ZIPS["cut.zip"][0])
    with pytest.raises(BadInput, match="cannot be opened") as caught:
        list(members(path, LIMITS))
    assert caught.value.reason == "zip_corrupt"


def test_refusals_are_known_before_reading_and_raised_when_reading():
    (member,) = members_of(ZIPS["locked.zip"][0], LIMITS)
    assert member.refusal is not None
    assert member.refusal.reason == "zip_encrypted"
    with pytest.raises(BadInput, match="password"):
        member.read()


def test_names_without_the_utf8_flag():
    """Linux and macOS write UTF-8 without saying so; DOS wrote CP437."""

    def renamed(raw: bytes) -> bytes:
        data = corpus.zipped({"x" * len(raw): b"1"})
        return data.replace(b"x" * len(raw), raw)

    (utf8,) = members_of(renamed("Größe.png".encode()), LIMITS)
    assert utf8.name == "Größe.png"
    (dos,) = members_of(renamed("Größe.png".encode("cp437")), LIMITS)
    assert dos.name == "Größe.png"


@pytest.mark.parametrize("name", ["..\\evil.png", "a/../../evil.png", "/evil.png", "C:\\evil.png", "C:/evil.png"])
def test_names_that_lead_out_are_refused(name):
    (member,) = members_of(corpus.zipped({name: b"1"}), LIMITS)
    assert member.refusal is not None
    assert member.refusal.reason == "zip_slip"


def test_folders_and_sidecars_are_passed_over():
    data = corpus.zipped(
        {
            "a/": b"",
            "a/b.png": b"1",
            "__MACOSX/a/._b.png": b"2",
            ".DS_Store": b"3",
            "a/.git/x": b"4",
            "Thumbs.db": b"5",
        }
    )
    assert [member.name for member in members_of(data, LIMITS)] == ["a/b.png"]


def test_two_members_of_the_same_name_are_both_read():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.png", b"first")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a.png", b"second")
    assert [member.read() for member in members_of(file.getvalue(), LIMITS)] == [b"first", b"second"]


def test_too_many_members_are_refused():
    data = corpus.zipped({f"{i}.png": b"1" for i in range(12)})
    assert len(list(members_of(data, ArchiveSettings(max_members=12)))) == 12
    with pytest.raises(BadInput) as caught:
        list(members_of(data, ArchiveSettings(max_members=11)))
    assert caught.value.reason == "zip_too_many_members"


def test_the_sum_of_all_members_is_limited():
    data = corpus.zipped({f"{i}.png": bytes(1000) for i in range(5)})
    found = outcomes(data, ArchiveSettings(max_bytes=3500))
    assert list(found.values()) == ["not_an_image"] * 3 + ["zip_bomb"] * 2


def test_a_member_that_is_too_large_is_refused():
    data = corpus.zipped({"a.png": bytes(1000), "b.png": bytes(999)}, zipfile.ZIP_STORED)
    found = outcomes(data, ArchiveSettings(max_member_bytes=999))
    assert found == {"a.png": "too_large", "b.png": "not_an_image"}


def test_a_large_member_comes_in_pieces():
    content = bytes(range(256)) * (3 << 12)
    walk = members_of(corpus.zipped({"a.bin": content}, zipfile.ZIP_STORED), LIMITS)
    member = next(walk)
    pieces = list(member.chunks())
    assert len(pieces) >= 3
    assert max(map(len, pieces)) <= 1 << 20
    assert b"".join(pieces) == content
    assert list(walk) == []
    with pytest.raises(ValueError, match="closed"):
        member.read()


@given(changes=st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), min_size=1, max_size=8))
@settings(max_examples=80, deadline=2000)
def test_damaged_archives_are_read_or_refused(changes):
    data = bytearray(ZIPS["slip.zip"][0])
    for where, value in changes:
        data[where % len(data)] = value
    try:
        found = outcomes(bytes(data))
    except BadInput as refused:
        found = {"": refused.reason}
    assert all(found.values())
