"""Names in archives as people wrote them, whatever packed them."""

import io
import struct
import tarfile
import zipfile
import zlib

import pytest

from dermbatch.archives.archive import members
from dermbatch.settings import ArchiveSettings

NAMES = [
    ("utf-8", ["Muttermal größer.png", "病変.png"]),
    ("cp932", ["皮膚/病変01.png", "ほくろ 背中.png"]),
    ("cp932", ["ダーモスコピー.jpg"]),
    ("cp932", ["患者2024年3月.dcm"]),
    ("cp1252", ["Läsion.jpg"]),
    ("cp1252", ["Muttermal Größe über 5 mm.jpg", "Rücken.jpg"]),
    ("cp1252", ["lésion pigmentée.jpg"]),
    ("cp1252", ["lunar año/niño.png"]),
    ("cp850", ["Läsion.jpg", "Rücken.jpg"]),
    ("cp437", ["Läsion.jpg"]),
    ("cp850", ["Größe.jpg"]),
    ("cp866", ["родинка.png"]),
    ("cp866", ["Снимок кожи/левая рука.png"]),
    ("gb18030", ["皮肤/黑色素痣.png"]),
    ("gb18030", ["照片.jpg", "患者.jpg"]),
    ("cp949", ["피부 병변.png"]),
    ("ascii", ["IM0001.dcm"]),
]


def zipped(raw, extra=b"", flag=0):
    """A zip as strangers write it: the names' bytes as they are, without the flag of UTF-8."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number, name in enumerate(raw):
            info = zipfile.ZipInfo("x" * len(name) if len(name) > 3 else f"{number:03d}")
            info.extra = extra
            archive.writestr(info, b"body")
    body = buffer.getvalue()
    for name in raw:
        body = body.replace(b"x" * len(name), name)
    return body


@pytest.mark.parametrize(("encoding", "names"), NAMES)
def test_names_of_zip_members_are_readable(encoding, names):
    if len({len(name.encode(encoding)) for name in names}) < len(names):
        names = names[:1]
    body = b"".join([zipped([name.encode(encoding) for name in names])])
    assert [member.name for member in members(body, ArchiveSettings())] == names
    assert [member.name for member in members(body, ArchiveSettings())] == names


@pytest.mark.parametrize(("encoding", "name"), [(encoding, names[0]) for encoding, names in NAMES])
def test_names_of_tar_members_are_readable(encoding, name):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT, encoding=encoding) as archive:
        info = tarfile.TarInfo(name)
        info.size = 4
        archive.addfile(info, io.BytesIO(b"body"))
    (member,) = members(buffer.getvalue(), ArchiveSettings())
    assert member.name == name


def test_a_unicode_path_field_counts_for_the_name_that_it_is_of():
    raw = b"?????.png"
    for of, expected in ((raw, "病変.png"), (b"other", "?????.png")):
        field = b"\x01" + struct.pack("<L", zlib.crc32(of)) + "病変.png".encode()
        extra = struct.pack("<HH", 0x7075, len(field)) + field
        assert [member.name for member in members(zipped([raw], extra), ArchiveSettings())] == [expected]
