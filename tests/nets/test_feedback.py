"""Decisions as a training set: in the usual layout, which recipes read, with a reason for all that is left out."""

from __future__ import annotations

import csv
import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dermbatch import layout
from dermbatch.errors import UsageError
from dermbatch.images import png
from dermbatch.phantoms.phantom import phantom
from dermbatch.records.review import Decision, DrawnMask, Seen
from dermbatch.review.kept import keep
from dermbatch.review.masks import runs
from lesionnets.commands import data
from lesionnets.data.feedback import write_set
from lesionnets.data.sources.folds import split_samples
from lesionnets.data.sources.isic import DIAGNOSES, read_pair
from tests.nets.calling import call
from tests.outcome_samples import result_of, write_record
from tests.unit.standins import Store

NOW = datetime(2026, 11, 27, 12, 0, tzinfo=UTC)
SIZE = (48, 64)


def decided(store: Any, index: int, **fields: object) -> None:
    """A phantom with its result, and a decision of it."""
    drawn = phantom(index, height=SIZE[0], width=SIZE[1])
    body = png.encode(drawn.image)
    store.put(f"pictures/{index}", body, "image/png")
    sha256 = hashlib.sha256(body).hexdigest()
    record = result_of("spring-1", index)
    changed = {"uri": f"s3://{store.bucket}/pictures/{index}", "sha256": sha256, "bytes": len(body)}
    changed |= {"height": SIZE[0], "width": SIZE[1], "media_type": "image/png"}
    record = record.model_copy(update={"source": record.source.model_copy(update=changed)})
    write_record(store, record)
    stages = {stage: one.key for stage, one in record.stages.items()}
    seen = Seen(sha256=sha256, stages=stages, shown=True, blank=False)
    mask = DrawnMask(height=SIZE[0], width=SIZE[1], counts=tuple(runs(drawn.lesion)))
    told = {"diagnosis": (DIAGNOSES[index % 3],), "mask": mask, **fields}
    keep(store, Decision(batch="spring-1", index=index, reader="ada", version=1, made=NOW, seen=seen, **told))


@pytest.fixture
def store() -> Any:
    made = Store()
    for index in range(16):
        decided(made, index)
    return made


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_decisions_become_a_set_that_recipes_read(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(data, "ObjectStore", lambda *_: store)
    out = tmp_path / "set"
    code, told, _ = call(monkeypatch, capsys, "data", "from-feedback", "spring-1", "--out", out, "--val", 0.4)
    assert code == 0
    assert "16 images" in told
    training, held_out = split_samples(out, None)
    assert len(training) + len(held_out) == 16
    assert min(len(training), len(held_out)) > 4
    for sample in (*training, *held_out):
        index = int(sample.image_id.rpartition("_")[2])
        drawn = phantom(index, height=SIZE[0], width=SIZE[1])
        image, mask = read_pair(sample)
        assert np.array_equal(image, drawn.image)
        assert np.array_equal(mask > 0, drawn.lesion)
        assert sample.diagnosis == DIAGNOSES[index % 3]
    words = ("train", "classify_lite", "--data", out, "--smoke", "--out", tmp_path / "run")
    assert call(monkeypatch, capsys, *words)[0] == 0
    code, _, told = call(monkeypatch, capsys, "data", "from-feedback", "spring-1", "--out", out)
    assert (code, "holds a set already" in told) == (2, True)


def test_the_store_is_that_of_a_stack_that_runs(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []
    monkeypatch.setattr(data, "ObjectStore", lambda settings, _: asked.append(settings.bucket) or store)
    words = ("data", "from-feedback", "spring-1", "--out", tmp_path / "set", "--home", tmp_path)
    code, _, told = call(monkeypatch, capsys, *words)
    assert (code, f"no stack is running in {tmp_path}" in told) == (2, True)
    (tmp_path / "stack.json").write_text('{"settings": {"store": {"bucket": "theirs"}}}')
    assert call(monkeypatch, capsys, *words)[0] == 0
    assert asked == ["theirs"]


def test_each_image_says_who_when_and_which_model(store: Any, tmp_path: Path) -> None:
    write_set(store, ["spring-1"], tmp_path, renamed={}, val=0)
    first = next(row for row in rows(tmp_path / "feedback.csv") if row["index"] == "0")
    assert (first["image_id"], first["readers"], first["made"]) == ("spring-1_0", "ada", NOW.isoformat())
    assert (first["kind"], first["shown"]) == ("read", "1")
    assert first["classified_by"] == f"classify_net@1 {'ab' * 6}"


def test_what_is_left_out_has_a_word(store: Any, tmp_path: Path) -> None:
    store.delete(layout.result("spring-1", 0))
    store.delete("pictures/1")
    decided(store, 20, diagnosis=("dermatofibroma",))
    decided(store, 21, diagnosis=("wart",))
    decided(store, 22, mask=DrawnMask(height=SIZE[0], width=SIZE[1], counts=(SIZE[0] * SIZE[1],)))
    names = {"dermatofibroma": "nevus"}
    written = write_set(store, ["spring-1"], tmp_path, renamed=names, val=0.5)
    assert written.left_out == {"deleted": 1, "source_gone": 1, "unknown_diagnosis": 1, "no_lesion": 1}
    assert sum(written.images.values()) == written.masks == 15
    assert {row["why"]: row["index"] for row in rows(tmp_path / "left_out.csv")} == {
        "deleted": "0",
        "source_gone": "1",
        "unknown_diagnosis": "21",
        "no_lesion": "22",
    }
    assert (
        next(row for row in rows(tmp_path / "labels.csv") if row["image_id"] == "spring-1_20")["diagnosis"]
        == "nevus"
    )


def test_an_image_stays_on_its_side_and_nothing_is_written_where_nothing_is_taught(
    store: Any, tmp_path: Path
) -> None:
    sides = []
    for part in ("first", "second"):
        write_set(store, ["spring-1"], tmp_path / part, renamed={}, val=0.3)
        sides.append({row["image_id"]: row["split"] for row in rows(tmp_path / part / "labels.csv")})
        decided(store, 30)
    assert sides[0] == {name: side for name, side in sides[1].items() if name != "spring-1_30"}
    with pytest.raises(UsageError, match="no decision of autumn teaches anything: there are none"):
        write_set(store, ["autumn"], tmp_path / "third", renamed={}, val=0.3)
    assert not (tmp_path / "third").exists()
