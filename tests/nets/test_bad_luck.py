"""Files and options that users get wrong: ``lesionnets`` says so in one sentence, before hours of work."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
from calling import call
from onnx import TensorProto, helper

from dermbatch.models.repository import default_model_repository

Refused = Callable[..., str]
CLASSES = ("melanoma", "nevus", "seborrheic_keratosis")


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Call the command, which has to end with code 2 and one sentence; gives the sentence."""

    def ended(*words: object) -> str:
        code, _, err = call(monkeypatch, capsys, *words)
        assert code == 2, words
        assert len(err.strip().splitlines()) == 1, err
        return err.strip()

    return ended


@pytest.fixture
def pair(isic_folder: Path) -> tuple[object, ...]:
    return "--images", isic_folder / "val" / "images", "--masks", isic_folder / "val" / "masks"


def graph(path: Path, kind: int, shape: tuple[object, ...]) -> Path:
    """A model that answers what it is given."""
    takes, gives = (helper.make_tensor_value_info(name, kind, shape) for name in ("IMAGE", "LESION"))
    made = helper.make_graph([helper.make_node("Identity", ["IMAGE"], ["LESION"])], "g", [takes], [gives])
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.mark.parametrize(
    ("kind", "shape", "told"),
    [
        (TensorProto.FLOAT, ("n", "h", "w", 3), "takes IMAGE as TYPE_FP32, not as uint8"),
        (TensorProto.UINT8, ("n", 3, "h", "w"), r"has IMAGE of shape [3, -1, -1], not [any, any, 3]"),
        (TensorProto.UINT8, ("n", "h", "w", 3), r"has LESION of shape [-1, -1, 3], not [any, any]"),
        (TensorProto.UINT8, ("n", 3), r"has IMAGE of shape [3]"),
    ],
)
def test_a_model_of_other_tensors_is_refused(
    kind: int, shape: tuple[object, ...], told: str, pair: tuple[object, ...], tmp_path: Path, refused: Refused
) -> None:
    assert told in refused("evaluate", "segment", *pair, "--model", graph(tmp_path / "m.onnx", kind, shape))


@pytest.mark.parametrize("content", [{"recipe": None}, {"state": [1]}, {"hyper": [1]}, {"figures": 3}])
def test_a_checkpoint_of_other_fields_is_refused(
    content: dict[str, object], pair: tuple[object, ...], tmp_path: Path, refused: Refused
) -> None:
    good: dict[str, object] = {
        "recipe": "segment_x",
        "network": "unet.UNet",
        "hyper": {},
        "state": {},
        "figures": {},
    }
    torch.save(good | content, tmp_path / "other.pt")
    assert "is not a checkpoint of lesionnets" in refused(
        "evaluate", "segment", *pair, "--model", tmp_path / "other.pt"
    )


def test_a_configuration_that_cannot_be_read_is_named(
    pair: tuple[object, ...], rows: Path, tmp_path: Path, refused: Refused
) -> None:
    for name in ("segment_lite", "classify_lite"):
        shutil.copytree(default_model_repository() / name, tmp_path / name)
        (tmp_path / name / "config.pbtxt").write_text("name: {")
    told = refused("evaluate", "segment", *pair, "--model", tmp_path / "segment_lite" / "1" / "model.onnx")
    assert "config.pbtxt cannot be read" in told
    assert "config.pbtxt cannot be read" in refused("operate", rows, "--model", tmp_path / "classify_lite")


def test_a_picture_that_is_gone_or_too_small_is_named(isic_folder: Path, tmp_path: Path, refused: Refused) -> None:
    labels = ("--labels", isic_folder / "labels.csv", "--whole")
    (tmp_path / "PH_val_0.jpg").symlink_to("nowhere.jpg")
    shutil.copy(isic_folder / "val" / "images" / "PH_val_1.jpg", tmp_path)
    assert "PH_val_0.jpg is no file" in refused("evaluate", "classify", "--images", tmp_path, *labels)
    (tmp_path / "PH_val_0.jpg").unlink()
    os.mkfifo(tmp_path / "PH_val_0.jpg")
    assert "PH_val_0.jpg is no file" in refused("evaluate", "enhance", "--images", tmp_path)
    (tmp_path / "PH_val_0.jpg").unlink()
    cv2.imwrite(str(tmp_path / "PH_val_0.png"), np.full((12, 90, 3), 99, np.uint8))
    for stage in ("enhance", "purify"):
        told = refused("evaluate", stage, "--images", tmp_path)
        assert "PH_val_0.png has 90 x 12 pixels" in told


@pytest.mark.parametrize(
    ("mask", "told"),
    [(np.full((60, 60), 255, np.uint8), "of the same proportions"), (np.zeros((96, 128), np.uint8), "is empty")],
)
def test_a_classifier_is_given_no_mask_that_does_not_fit(
    mask: np.ndarray, told: str, isic_folder: Path, tmp_path: Path, refused: Refused
) -> None:
    cv2.imwrite(str(tmp_path / "PH_val_3_segmentation.png"), mask)
    images, labels = ("--images", isic_folder / "val" / "images"), ("--labels", isic_folder / "labels.csv")
    assert told in refused("evaluate", "classify", *images, *labels, "--masks", tmp_path)


def test_rows_are_not_written_where_they_cannot_be_or_over_the_labels(
    isic_folder: Path, pair: tuple[object, ...], tmp_path: Path, refused: Refused
) -> None:
    for path in (Path("/proc/rows.csv"), tmp_path / ("x" * 300)):
        told = refused("evaluate", "segment", *pair, "--out", path, "--model", "none.onnx")
        assert told.startswith("lesionnets: --out ")
        assert "cannot be written" in told
    shutil.copy(isic_folder / "labels.csv", tmp_path)
    labels = tmp_path / "labels.csv"
    words = ("evaluate", "classify", *pair[:2], "--labels", labels, "--out", labels)
    assert "would replace the labels" in refused(*words)
    assert labels.read_text() == (isic_folder / "labels.csv").read_text()
    assert list(tmp_path.iterdir()) == [labels]


def test_what_is_needed_last_is_looked_at_first(
    pair: tuple[object, ...], tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With pictures that nothing can read: whoever reads them first says so."""
    for number, name in enumerate(("images", "masks")):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"a{'_segmentation' * number}.png").write_text("no picture")
    torn = ("--images", tmp_path / "images")
    masks = ("--masks", tmp_path / "masks")
    file = tmp_path / "file"
    file.touch()
    assert "no model file none.onnx" in refused("evaluate", "enhance", *torn, "--model", "none.onnx")
    assert "'moss' cannot be drawn" in refused("evaluate", "purify", *torn, "--occlusions", "hair,moss")
    assert "name what to draw" in refused("evaluate", "purify", *torn, "--occlusions", "")
    assert "no model file none.onnx" in refused("evaluate", "purify", *torn, *masks, "--segment", "none.onnx")
    places: tuple[tuple[object, ...], ...] = (
        ("precision", "segment", *torn, "--repository"),
        ("data", "pairs", *torn, "--out"),
        ("train", "segment_lite", "--out"),
        ("export", "none.pt", "--repository"),
    )
    for words in places:
        assert f"{file} is a file" in refused(*words, file)
        assert "cannot be made" in refused(*words, "/proc/folder")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return written(tmp_path / "rows.csv")


def written(path: Path, changed: Mapping[int, str] | None = None) -> Path:
    """Rows of 60 images as `evaluate classify --out` writes them; some with another line."""
    drawn = np.random.default_rng(0).dirichlet([1, 1, 1], 60)
    lines = [f"i{n},{CLASSES[n % 3]}," + ",".join(f"{p:.4f}" for p in each) for n, each in enumerate(drawn)]
    for number, line in (changed or {}).items():
        lines[number] = line
    path.write_text("\n".join([f"image_id,diagnosis,{','.join(CLASSES)}", *lines]) + "\n")
    return path


@pytest.mark.parametrize("value", ["nan", "1e400", "87.5", "-0.1"])
def test_only_shares_are_probabilities(value: str, tmp_path: Path, refused: Refused) -> None:
    path = written(tmp_path / "rows.csv", {3: f"i3,melanoma,{value},0.5,0.2"})
    assert "a probability that is not a number from 0 to 1" in refused("operate", path)


def test_operating_points_need_what_they_are_set_and_checked_on(
    rows: Path, tmp_path: Path, refused: Refused
) -> None:
    assert "--sensitivity names none" in refused("operate", rows, "--sensitivity", "")
    others = {number: f"i{number},nevus,0.1,0.8,0.1" for number in range(0, 60, 3)}
    check = written(tmp_path / "others.csv", others)
    assert "need images that are melanoma" in refused("operate", rows, "--check", check)


@pytest.mark.parametrize(
    "told", ['{"figures": []}', '{"figures": null}', '{"figures": {"a": {"mean": "x", "low": 0, "high": 1}}}']
)
def test_figures_of_another_form_are_refused(told: str, tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "figures.json").write_text(told)
    assert "is not what" in refused("export", tmp_path / "best.pt", "--figures", tmp_path / "figures.json")


def classifying(isic_folder: Path, folder: Path) -> tuple[str | Path, ...]:
    return (
        "evaluate",
        "classify",
        "--images",
        isic_folder / "val" / "images",
        "--labels",
        folder / "labels.csv",
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("image_id;diagnosis\na;nevus\n", "lacks the column diagnosis, image_id; .* separated by commas"),
        ("image_id,label\na,nevus\n", "lacks the column diagnosis; it needs"),
    ],
)
def test_labels_are_told_what_they_lack(
    text: str, told: str, isic_folder: Path, tmp_path: Path, refused: Refused
) -> None:
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(AssertionError, match=told):
        raise AssertionError(refused(*classifying(isic_folder, tmp_path)))


def test_labels_that_name_files_are_told_that_they_do(isic_folder: Path, tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "labels.csv").write_text("image_id,diagnosis\nPH_val_0.jpg,nevus\nPH_val_1.jpg,melanoma\n")
    assert "images are called PH_val_0, ..., the labels have PH_val_0.jpg, ..." in refused(
        *classifying(isic_folder, tmp_path)
    )


def test_a_full_disk_is_one_sentence(
    rows: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "card.md")

    monkeypatch.setattr("lesionnets.evaluation.operating.read", full)
    code, _, err = call(monkeypatch, capsys, "operate", rows)
    assert (code, err) == (1, "lesionnets: card.md: No space left on device\n")
