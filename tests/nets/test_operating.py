"""Operating points and sets of possible labels: thresholds by hand, what they promise, and the command."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from dermbatch.errors import UsageError
from dermbatch.models.cards import card_of
from dermbatch.models.configuration import read_config
from dermbatch.models.repository import default_model_repository
from dermbatch.models.risk import points_of, sets_of
from lesionnets.commands.operate import _served
from lesionnets.data.sources.isic import DIAGNOSES
from lesionnets.evaluation.operating import Known, by_folds, elsewhere, read, set_points, set_sets
from lesionnets.export import write_variant
from tests.nets.calling import call


def known(count: int, seed: int = 0, shift: float = 1.5) -> Known:
    """Probabilities that tell three classes apart to some degree."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    logits = random.normal(size=(count, 3)) + shift * np.eye(3)[labels]
    shares = np.exp(logits)
    return Known(shares / shares.sum(axis=1, keepdims=True), labels, DIAGNOSES)


def test_thresholds_are_those_that_can_be_counted() -> None:
    shares = np.stack([np.linspace(0.1, 1, 10), np.linspace(0.9, 0, 10)], axis=1)
    melanomas = Known(np.concatenate([shares, shares[:, ::-1]]), np.repeat([0, 1], 10), ("melanoma", "nevus"))
    points = set_points(melanomas, "melanoma", (0.95, 0.82))
    assert points.thresholds == ((0.82, 0.2), (0.95, 0.1))  # 9 and 10 of 10
    sets = set_sets(melanomas, 0.8)
    assert sets.thresholds == {"melanoma": 0.2, "nevus": 0.2}  # floor(11 x 0.2) = 2
    assert set_sets(melanomas, 0.99).thresholds == {"melanoma": 0.0, "nevus": 0.0}


def test_coverage_and_sensitivity_hold_on_images_that_thresholds_were_not_set_on() -> None:
    """The mean of many draws is at least what is promised, and not much more."""
    covered, found = [], []
    for seed in range(60):
        setting, other = known(90, seed), known(300, 1000 + seed)
        figures = elsewhere(other, set_points(setting, "melanoma", (0.9,)), set_sets(setting, 0.9))
        covered.append([figures[f"coverage_{name}"].mean for name in DIAGNOSES])
        found.append(figures["sensitivity_at_90"].mean)
    assert (np.mean(covered, axis=0) > 0.895).all()
    assert np.mean(covered) < 0.93
    assert 0.86 < np.mean(found) < 0.92  # of 30 images the 27th: a little less than was asked for


def test_figures_by_folds_are_less_than_those_of_the_images_that_were_set_on() -> None:
    few = known(45)
    seen = elsewhere(few, set_points(few, "melanoma", (0.89,)), set_sets(few, 0.9))
    folds = by_folds(few, "melanoma", (0.89,), 0.9)
    assert set(folds) == set(seen)
    assert folds["sensitivity_at_89"].mean < seen["sensitivity_at_89"].mean
    assert folds["sensitivity_at_89"].low < folds["sensitivity_at_89"].mean < folds["sensitivity_at_89"].high
    assert folds == by_folds(few, "melanoma", (0.89,), 0.9)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    some, path = known(60), tmp_path / "rows.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image_id", "diagnosis", *DIAGNOSES])
        for number, (shares, label) in enumerate(zip(some.shares, some.labels, strict=True)):
            writer.writerow([f"i_{number}", DIAGNOSES[label], *shares])
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "repository" / "classify_lite"
    shutil.copytree(default_model_repository() / "classify_lite", folder)
    return folder


def test_the_command_writes_beside_the_model(
    rows: Path, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("operate", rows, "--model", model, "--name", "sixty drawn ones", "--json")
    before = (model / "config.pbtxt").read_text(), (model / "MODEL_CARD.md").read_text()
    code, printed, _ = call(monkeypatch, capsys, *words, "--check", rows)
    assert code == 0
    told = json.loads(printed)
    assert before == ((model / "config.pbtxt").read_text(), (model / "MODEL_CARD.md").read_text())
    assert told["elsewhere"]["coverage_nevus"]["mean"] >= 0.9
    for share in ("0.9", "0.8,0.85"):  # the second in place of the first
        assert call(monkeypatch, capsys, *words, "--write", "--sensitivity", share, "--coverage", 0.95)[0] == 0
    parameters = {key: value.string_value for key, value in _config(model).items()}
    points, sets = points_of(parameters, "1"), sets_of(parameters, "1")
    assert points is not None
    assert sets is not None
    assert [sensitivity for sensitivity, _ in points.thresholds] == [0.8, 0.85]
    assert sets.coverage == 0.95
    assert parameters["sha256.1"] in before[0]
    card = card_of(model.parent, "classify_lite")
    assert card is not None
    assert card.text.count("## Operating points") == card.text.count("## Limits") == 1
    assert "sixty drawn ones: 20 melanoma, 20 nevus, 20 seborrheic keratosis" in card.text
    assert len(card.operating) == 2 + 3 + 1
    assert card.figures["mean auc"]


def _config(model: Path):  # type: ignore[no-untyped-def]
    return read_config(model).parameters


def test_a_variant_has_no_points_of_the_model_that_it_is_of(rows: Path, model: Path, tmp_path: Path) -> None:
    import onnx

    assert _served(model) == ("1", DIAGNOSES)
    with (model / "config.pbtxt").open("a") as file:
        file.write('parameters { key: "risk.1" value: { string_value: "melanoma 0.5=0.5" } }\n')
    graph = onnx.load(model / "1" / "model.onnx")
    made = write_variant(model / "1" / "model.onnx", graph, tmp_path / "variants", "int8")
    assert not [name for name in _config(made.parent.parent) if name.startswith(("risk.", "sets."))]
    card = card_of(tmp_path / "variants", "classify_lite_int8")
    assert card is not None
    assert not card.operating
    assert card.figures["mean auc"]
    assert card.text.startswith("# classify_lite_int8, version 1\n")
    assert f"{made.stat().st_size:,} bytes as served" in card.text
    assert "## Operating points" not in card.text
    assert card.text.count("## Limits") == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--sensitivity", "high"), "is not a number"),
        (("--sensitivity", "1.2"), "is not a share"),
        (("--of", "wart"), "the model has no class 'wart'"),
        (("--model", "nowhere"), "there is no model in nowhere"),
        (("--check", "missing.csv"), "there is no label file missing.csv"),
    ],
)
def test_what_cannot_be_set_is_one_sentence(
    rows: Path,
    words: tuple[str, ...],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, _, complaint = call(monkeypatch, capsys, "operate", rows, *words)
    assert code == 2
    assert told in complaint


def test_an_image_has_one_row_and_one_diagnosis(rows: Path, tmp_path: Path) -> None:
    header, *lines = rows.read_text().splitlines()
    twice = tmp_path / "sweep.csv"  # as `evaluate chain --long-side 128,512 --out` writes it
    twice.write_text("\n".join([header, *lines, *lines]) + "\n")
    with pytest.raises(UsageError, match="several rows for i_0; give one of each image"):
        read(twice, DIAGNOSES, None)
    labels = tmp_path / "labels.csv"
    labels.write_text("image_id,diagnosis\ni_0,nevus\ni_0,melanoma\n")
    with pytest.raises(UsageError, match="two diagnoses for i_0"):
        read(rows, DIAGNOSES, labels)
    labels.write_text("image_id,lesion_id,dx\ni_0,l,nevus\ni_1,m,melanoma\n")
    assert read(rows, DIAGNOSES, labels).counts() == "1 melanoma, 1 nevus, 0 seborrheic keratosis"
