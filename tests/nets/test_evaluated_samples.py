"""Which images of a user's folders are measured, and which folders are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from dermbatch.errors import UsageError
from lesionnets.evaluation.samples import read_diagnoses, with_diagnoses, with_masks


@pytest.fixture
def clinic(tmp_path: Path) -> Path:
    """Images a to d in several formats, masks of a and b, labels of a to c and of one that is not there."""
    for folder, names in (
        ("images", ("a.jpg", "b.JPG", "c.png", "d.PNG", ".a.jpg", "a.txt")),
        ("masks", ("a_segmentation.png", "b_segmentation.PNG", "a_superpixels.png", "readme.txt")),
    ):
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / name).touch()
    # As a spreadsheet writes it: a byte order mark, columns in an order of its own, blanks, an empty cell.
    rows = [
        "split, diagnosis,image_id",
        "test,nevus,a",
        "test,melanoma ,b",
        "train,nevus,c",
        "test,,d",
        "test,nevus,x",
    ]
    (tmp_path / "labels.csv").write_text("\n".join(rows), encoding="utf-8-sig")
    return tmp_path


def test_images_with_masks_are_found_whatever_their_suffixes(clinic: Path) -> None:
    found = with_masks([clinic / "images"], clinic / "masks")
    assert [(sample.image.name, sample.mask.name) for sample in found.samples if sample.mask] == [
        ("a.jpg", "a_segmentation.png"),
        ("b.JPG", "b_segmentation.PNG"),
    ]
    assert found.left_out == {"images without a mask": 2}


def test_a_mask_without_its_image_is_an_error_unless_asked_for(clinic: Path) -> None:
    (clinic / "images" / "b.JPG").unlink()
    with pytest.raises(UsageError, match=r"1 of 2 masks in .* have no image in .*images \(b\).*--partial"):
        with_masks([clinic / "images"], clinic / "masks")
    found = with_masks([clinic / "images"], clinic / "masks", partial=True)
    assert [sample.image_id for sample in found.samples] == ["a"]
    assert found.left_out == {"images without a mask": 2, "masks without an image": 1}
    (clinic / "more").mkdir()
    (clinic / "more" / "b.tif").touch()
    found = with_masks([clinic / "images", clinic / "more"], clinic / "masks")
    assert [sample.image_id for sample in found.samples] == ["a", "b"]


def test_images_with_diagnoses_are_found_with_their_masks(clinic: Path) -> None:
    found = with_diagnoses([clinic / "images"], clinic / "labels.csv", masks=clinic / "masks")
    assert [(sample.image_id, sample.diagnosis, sample.mask is not None) for sample in found.samples] == [
        ("a", "nevus", True),
        ("b", "melanoma", True),
        ("c", "nevus", False),
    ]
    assert found.left_out == {"images without a diagnosis": 1, "diagnoses without an image": 1}
    found = with_diagnoses([clinic / "images"], clinic / "labels.csv", split="train")
    assert [(sample.image_id, sample.mask) for sample in found.samples] == [("c", None)]


def test_ham10000s_column_is_read_too(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("image_id,lesion_id,dx\nISIC_1,HAM_1,bkl\nISIC_1,HAM_1,bkl\n")
    assert read_diagnoses(tmp_path / "labels.csv") == {"ISIC_1": "bkl"}


@pytest.mark.parametrize(
    ("content", "split", "message"),
    [
        ("image_id,age\na,3\n", None, "lacks the column diagnosis; it needs image_id and diagnosis"),
        ("diagnosis\nnevus\n", None, "lacks the column image_id"),
        ("image_id,diagnosis\na,nevus\n", "test", "lacks the column split"),
        ("image_id,diagnosis,split\na,nevus,train\n", "test", "no diagnosis of split 'test'"),
        ("image_id,diagnosis\n", None, "holds no labels"),
        ("image_id,diagnosis\na,\n", None, "has no diagnosis"),
        ("image_id,diagnosis\na,nevus\na,melanoma\n", None, "two diagnoses for a: nevus and melanoma"),
        (b"\xff\xfe\x00", None, "cannot be read as a CSV file"),
    ],
)
def test_wrong_labels_get_one_sentence(
    tmp_path: Path, content: str | bytes, split: str | None, message: str
) -> None:
    path = tmp_path / "labels.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UsageError, match=message):
        read_diagnoses(path, split=split)


def test_wrong_folders_get_one_sentence(clinic: Path, tmp_path: Path) -> None:
    images, masks = clinic / "images", clinic / "masks"
    (tmp_path / "empty").mkdir()
    (tmp_path / "twice").mkdir()
    (tmp_path / "twice" / "a.png").touch()
    for call, message in (
        (lambda: with_masks([tmp_path / "none"], masks), "there is no folder .*none"),
        (lambda: with_masks([images], tmp_path / "none"), "there is no folder .*none"),
        (lambda: with_masks([tmp_path / "empty"], masks), "empty holds no image"),
        (lambda: with_masks([images], tmp_path / "empty"), "empty holds no mask"),
        (lambda: with_masks([images, tmp_path / "twice"], masks), "image a occurs twice: .*a.jpg and .*a.png"),
        (lambda: with_masks([tmp_path / "other"], masks, partial=True), "no image of .*other has a mask in"),
        (
            lambda: with_diagnoses([tmp_path / "other"], clinic / "labels.csv"),
            "no image of .*other has a diagnosis",
        ),
        (lambda: with_diagnoses([images], clinic / "none.csv"), "there is no label file .*none.csv"),
    ):
        (tmp_path / "other").mkdir(exist_ok=True)
        (tmp_path / "other" / "z.jpg").touch()
        with pytest.raises(UsageError, match=message):
            call()
