"""The benchmark of pictures that are not dermoscopic images, at its smallest."""

import csv
import sys

import cv2
import numpy as np
import pytest

from benchmarks.strange import __main__ as strange
from benchmarks.strange.kinds import drawn_kinds, real_kinds
from dermbatch.phantoms.phantom import phantom


def run(monkeypatch, *options):
    monkeypatch.setattr(sys, "argv", ["strange", *map(str, options)])
    strange.main()


def test_pages_are_flagged_and_phantoms_are_not(tmp_path, monkeypatch, capsys):
    run(monkeypatch, "--smoke", "--out", tmp_path / "rows.csv")
    with (tmp_path / "rows.csv").open() as file:
        rows = list(csv.DictReader(file))
    flagged = {row["kind"]: row["flagged"] for row in rows}
    assert flagged["documents"] == "True"
    assert flagged["phantoms"] == "False"
    assert all((float(row["distance"]) > 1) == (row["flagged"] == "True") for row in rows)
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 2 + len({row["kind"] for row in rows}) == 2 + len(drawn_kinds())
    pages = [row for row in rows if row["kind"] == "documents"]
    assert any(line.startswith(f"| documents | no skin | {len(pages)} | ") for line in printed)


def test_pictures_are_the_same_in_every_run():
    for one, same in zip(drawn_kinds(60), drawn_kinds(60), strict=True):
        (name, picture), (again, copy) = next(one.pictures()), next(same.pictures())
        assert (one.name, name) == (same.name, again)
        assert picture.dtype == np.uint8
        assert np.array_equal(picture, copy)


def test_real_pictures_are_found_and_changed_and_one_of_a_lesion_is_taken(tmp_path):
    isic, ham = tmp_path / "isic2017", tmp_path / "ham10000"
    for folder in (isic / "val" / "images", isic / "unmasked_256", ham / "images"):
        folder.mkdir(parents=True)
    image = phantom(1, height=64, width=96).image[:, :, ::-1]
    for path in (
        isic / "val" / "images" / "a.jpg",
        isic / "unmasked_256" / "b.jpg",
        isic / "unmasked_256" / "c.jpg",
    ):
        cv2.imwrite(str(path), image)
    (isic / "labels.csv").write_text("image_id,split\na,val\nb,val\nc,train\n")
    for number in range(3):
        cv2.imwrite(str(ham / "images" / f"{number}.jpg"), image)
    (ham / "labels.csv").write_text("image_id,lesion_id,dx\n0,one,df\n1,one,df\n2,two,vasc\n")
    found = {kind.name: list(kind.pictures()) for kind in real_kinds(tmp_path)}
    assert [name for name, _ in found["ISIC 2017 val"]] == ["a", "b"]
    assert [name for name, _ in found["HAM10000 dermatofibromas"]] == ["0"]
    assert found["clipart"] == []
    mild = {
        name: picture for kind, several in found.items() if kind.startswith("hair") for name, picture in several
    }
    assert len(mild) == 10
    assert not any(
        np.array_equal(picture, found["ISIC 2017 val"][0][1])
        for name, picture in mild.items()
        if "200" not in name and "120" not in name
    )
    assert found["black frame"][0][1].shape == (128, 192, 3)


def test_a_folder_is_needed(monkeypatch):
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch)
    assert ended.value.code == 2
