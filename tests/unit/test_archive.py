"""Untrusted archives: every member answered for, none unpacked beyond the limits."""

from __future__ import annotations

import io
import tarfile
import time
import tracemalloc
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dermbatch.archives.archive import members
from dermbatch.errors import BadInput
from dermbatch.images.imagefile import read_image
from dermbatch.settings import ArchiveSettings
from tests import corpus
from tests.waiting import allowed

LIMITS = ArchiveSettings()
ZIPS = corpus.zips() | corpus.tars()
TWO_MEMBERS = corpus.tarred({"a.png": b"1" * 512, "b.png": b"2" * 512})


def outcomes(data: bytes, limits: ArchiveSettings = LIMITS) -> dict[str, str]:
    """What comes of each member: read as an image, or the reason why not."""
    found = {}
    for member in members(data, limits):
        try:
            read_image(member.read(), max_pixels=10**6)
        except BadInput as refused:
            found[member.name] = refused.reason
        else:
            found[member.name] = "ok"
    return found


def walked(data: bytes, limits: ArchiveSettings = LIMITS) -> tuple[list[str], str | None]:
    """Members that could be read, up to why the walk ended early."""
    names = []
    try:
        for member in members(data, limits):
            member.read()
            names.append(member.name)
    except BadInput as error:
        return names, error.reason
    return names, None


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
    (member,) = members(ZIPS["locked.zip"][0], LIMITS)
    assert member.refusal is not None
    assert member.refusal.reason == "zip_encrypted"
    with pytest.raises(BadInput, match="password"):
        member.read()


def test_names_without_the_utf8_flag():
    """Linux and macOS write UTF-8 without saying so; DOS wrote CP437."""

    def renamed(raw: bytes) -> bytes:
        data = corpus.zipped({"x" * len(raw): b"1"})
        return data.replace(b"x" * len(raw), raw)

    (utf8,) = members(renamed("Größe.png".encode()), LIMITS)
    assert utf8.name == "Größe.png"
    (dos,) = members(renamed("Größe.png".encode("cp437")), LIMITS)
    assert dos.name == "Größe.png"


@pytest.mark.parametrize("name", ["..\\evil.png", "a/../../evil.png", "/evil.png", "C:\\evil.png", "C:/evil.png"])
def test_names_that_lead_out_are_refused(name):
    (member,) = members(corpus.zipped({name: b"1"}), LIMITS)
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
    assert [member.name for member in members(data, LIMITS)] == ["a/b.png"]


def test_two_members_of_the_same_name_are_both_read():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.png", b"first")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a.png", b"second")
    assert [member.read() for member in members(file.getvalue(), LIMITS)] == [b"first", b"second"]


def test_too_many_members_are_refused():
    data = corpus.zipped({f"{i}.png": b"1" for i in range(12)})
    assert len(list(members(data, ArchiveSettings(max_members=12)))) == 12
    with pytest.raises(BadInput) as caught:
        list(members(data, ArchiveSettings(max_members=11)))
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
    walk = members(corpus.zipped({"a.bin": content}, zipfile.ZIP_STORED), LIMITS)
    member = next(walk)
    pieces = list(member.chunks())
    assert len(pieces) >= 3
    assert max(map(len, pieces)) <= 1 << 20
    assert b"".join(pieces) == content
    assert list(walk) == []
    with pytest.raises(ValueError, match="closed"):
        member.read()


def test_archives_in_archives_share_the_limits_and_end_at_a_depth():
    inner = corpus.zipped({f"{i}.png": bytes(1000) for i in range(3)})
    two = corpus.tarred({"a.zip": inner, "b.zip": inner})
    assert outcomes(two, ArchiveSettings(max_depth=0)) == {"a.zip": "zip_nested", "b.zip": "zip_nested"}
    few = outcomes(two, ArchiveSettings(max_members=5))
    assert few == {**{f"a.zip/{i}.png": "not_an_image" for i in range(3)}, "b.zip": "zip_too_many_members"}
    small = ArchiveSettings(max_bytes=512 + len(inner) + 2500)
    assert walked(two, small) == (["a.zip/0.png", "a.zip/1.png"], "zip_bomb")
    deep = corpus.zipped({"a.png": b"1"})
    for level in range(4):
        deep = corpus.zipped({f"{level}.zip": deep})
    assert outcomes(deep) == {"3.zip/2.zip/1.zip/0.zip": "zip_nested"}


def test_members_say_which_archives_they_are_in():
    data = corpus.tarred({"x/a.tgz": corpus.tarred({"b.zip": corpus.zipped({"c.png": b"1"})}, "w:gz")})
    (member,) = members(data, LIMITS)
    assert member.name == "x/a.tgz/b.zip/c.png"
    assert member.within == ("x/a.tgz", "x/a.tgz/b.zip")


def test_a_tar_that_ends_early_says_so_after_what_it_has():
    data = corpus.tarred({"a.png": b"1" * 600, "b.png": b"2" * 600})
    for cut in (data[:1536], data[:1800], data[:2100], data[:1536] + b"x" * 512 + data[2048:]):
        assert walked(cut) == (["a.png"], "zip_corrupt")


def test_a_gzipped_bomb_is_refused_before_it_fills_anything():
    """Zeros as a member, as what a hidden file is, and as a name."""
    zeros = bytes(24 << 20)
    for name in ("zeros.png", ".hidden"):
        data = corpus.tarred({name: zeros, "b.png": b"1"}, "w:gz")
        assert walked(data) == ([], "zip_bomb")
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo("a" * (8 << 20)))
    tracemalloc.start()
    with pytest.raises(BadInput):
        list(members(file.getvalue(), LIMITS))
    assert tracemalloc.get_traced_memory()[1] < 2 << 20
    tracemalloc.stop()


def test_a_header_that_leads_back_ends():
    """A negative size would have the library read the same headers for ever (CVE-2025-8194)."""
    data = bytearray(corpus.tarred({"a.png": b"1" * 512, "b.png": b"2"}, format=tarfile.GNU_FORMAT))
    data[512 * 2 + 124 : 512 * 2 + 136] = b"\xff" * 10 + (-1536).to_bytes(2, "big", signed=True)
    total = sum(bytes(data[1024:1148])) + 8 * 32 + sum(data[1024 + 156 : 1536]) + sum(data[1148 : 1024 + 148])
    data[1024 + 148 : 1024 + 156] = b"%06o\0 " % total
    begun = time.monotonic()
    with pytest.raises(BadInput) as caught:
        list(members(bytes(data), LIMITS))
    assert caught.value.reason == "zip_corrupt"
    assert time.monotonic() - begun < allowed(5)


def test_sparse_files_are_refused():
    data = bytearray(corpus.tarred({"a.png": b"1" * 512}, format=tarfile.GNU_FORMAT))
    data[156:157] = tarfile.GNUTYPE_SPARSE
    data[483:495] = b"%011o\0" % (1 << 30)
    data[148:156] = b"%06o\0 " % (sum(data[:148]) + 8 * 32 + sum(data[156:512]))
    (member,) = members(bytes(data), LIMITS)
    assert member.refusal is not None
    assert member.refusal.reason == "tar_special"


def test_a_zip_directory_of_millions_is_refused_unread():
    data = bytearray(corpus.zipped({"a.png": b"1"}))
    at = data.rindex(b"PK\x05\x06")
    data[at + 12 : at + 16] = (5 << 20).to_bytes(4, "little")
    with pytest.raises(BadInput) as caught:
        list(members(bytes(6 << 20) + bytes(data), ArchiveSettings(max_members=100)))
    assert caught.value.reason == "zip_too_many_members"


DAMAGED = ["slip.zip", "nested.zip", "good.tar", "good.tgz", "nested.tar", "special.tar"]


@pytest.mark.parametrize("name", DAMAGED)
@given(
    changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=8), keep=st.floats(0, 1)
)
@settings(max_examples=60, deadline=3000)
def test_damaged_archives_are_read_or_refused(name, changes, keep):
    data = bytearray(ZIPS[name][0])
    for where, value in changes:
        data[int(where * (len(data) - 1))] = value
    if keep < 0.3:
        del data[int(keep * 3 * len(data)) :]
    found: dict[str, str] = {}
    try:
        found = outcomes(bytes(data))
    except BadInput as refused:
        found = {"": refused.reason}
    assert all(found.values())


@given(
    changes=st.lists(
        st.tuples(st.sampled_from([0, 512, 1024]), st.integers(100, 511), st.integers(0, 255)), max_size=6
    )
)
@settings(max_examples=150, deadline=3000)
def test_damaged_headers_with_right_sums_are_read_or_refused(changes):
    """Whoever makes a bad tar by intent gives it the right checksum."""
    data = bytearray(TWO_MEMBERS)
    for header, where, value in changes:
        data[header + where] = value
        total = sum(data[header : header + 148]) + 8 * 32 + sum(data[header + 156 : header + 512])
        data[header + 148 : header + 156] = b"%06o\0 " % total
    _, reason = walked(bytes(data))
    assert reason is None or reason in {"zip_corrupt", "zip_slip", "zip_bomb", "tar_special", "too_large"}
