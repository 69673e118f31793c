"""Files that ask for more than they hold, where nothing but the code that reads them bounds it."""

import io
import zipfile

import pytest

from benchmarks import hostile
from dermbatch.archives.archive import members
from dermbatch.errors import BadInput, UsageError
from dermbatch.records.marks import is_marked
from dermbatch.settings import ArchiveSettings
from orchestrator.planning.documents import composed, constructed
from orchestrator.planning.intake.frames import count_frames
from orchestrator.planning.privacy.profile import load_profile
from orchestrator.watching.rules.document import read_document


def test_nothing_of_it_is_inflated_where_frames_are_counted(monkeypatch):
    """In the process itself, where nothing bounds it."""
    data = hostile.hidden_deflate(100 << 20)
    monkeypatch.setattr("zlib.decompressobj", None)
    monkeypatch.setattr("zlib.decompress", None)
    assert count_frames(lambda length: data[:length], len(data)) == 1
    assert not is_marked(data[: 32 << 10])


def test_members_of_a_zip_that_share_their_bytes_are_a_bomb():
    with pytest.raises(BadInput, match="share their bytes") as caught:
        next(members(hostile.overlapping_zip(50, 70_000), ArchiveSettings()))
    assert caught.value.reason == "zip_bomb"  # once, and not for each of them


def test_members_side_by_side_are_none():
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for number in range(20):
            archive.writestr(f"{number}.jpg", bytes([number]) * number)
    found = [one.read() for one in members(made.getvalue(), ArchiveSettings())]
    assert found == [bytes([number]) * number for number in range(20)]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (hostile.merge_bomb(7), "line 9.*aliases expand to more than"),
        (hostile.alias_bomb(9), "aliases expand to more than"),
        (b"[" * 1_000, "not YAML"),
        (b"x: " + b"1:" * 10_000 + b"1", "line 1.*a number of more than 100 characters"),
        (b"x: " + b"1:" * 10_000 + b"1.5", "line 1.*a number of more than 100 characters"),
        (b"x: 0x" + b"f" * 1_000, "line 1.*a number of more than 100 characters"),
        (b"a:\n " + b"- " * 2_000 + b"x", "not YAML"),
    ],
)
def test_yaml_that_multiplies_is_refused(tmp_path, text, says):
    path = tmp_path / "rules.yaml"
    path.write_bytes(text)
    with pytest.raises(UsageError, match=says):
        read_document(path)
    with pytest.raises(UsageError, match="not YAML"):
        load_profile(path)


def test_yaml_with_a_few_aliases_is_read():
    assert constructed(composed(b"a: &a {x: 1}\nb:\n  <<: *a\n  y: [*a, *a]")) == {
        "a": {"x": 1},
        "b": {"x": 1, "y": [{"x": 1}, {"x": 1}]},
    }
