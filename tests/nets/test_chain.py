"""The chain is measured as served: each stage is fed by the one before; figures of groups; pairs of real hair."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from calling import call

from dermbatch.errors import UsageError
from dermbatch.phantoms.phantom import phantom
from lesionnets.data.sources.isic import Sample
from lesionnets.evaluation import chain
from lesionnets.evaluation.classify import of_groups
from lesionnets.evaluation.figures.strata import Strata, counts, means, stratum, with_source
from lesionnets.evaluation.models import predictors
from lesionnets.evaluation.models.predictors import LoadedModel
from lesionnets.evaluation.pasted import pasted_pairs
from lesionnets.evaluation.samples import with_either
from workers.stages import purify as served

Image = npt.NDArray[np.uint8]


def read_table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def whitened(IMAGE: Image) -> dict[str, Image]:  # noqa: N803
    """A purifier that takes all that is black for hair, and paints it white."""
    hair = IMAGE.max(axis=2) < 8
    clean = IMAGE.copy()
    clean[hair] = 255
    return {"PURIFIED": clean, "OCCLUSION": hair.astype(np.uint8) * 255}


def dark(IMAGE: Image) -> dict[str, Image]:  # noqa: N803
    return {"LESION": np.where(IMAGE.mean(axis=2) < 140, np.uint8(255), np.uint8(0))}


# The chain


def test_each_stage_is_fed_by_the_one_before(tmp_path: Path) -> None:
    """Hair across the picture is lesion to the segmenter, unless it was purified; the classifier is given both."""
    image = np.full((60, 80, 3), 200, np.uint8)
    image[20:40, 30:50] = 90
    truth = (image.mean(axis=2) < 140).astype(np.uint8) * 255
    image[:, 40:44] = 0
    cv2.imwrite(str(tmp_path / "a.png"), image)
    cv2.imwrite(str(tmp_path / "a_segmentation.png"), truth)
    cv2.imwrite(str(tmp_path / "b.png"), np.roll(image, 3, axis=1))
    samples = [
        Sample("a", tmp_path / "a.png", tmp_path / "a_segmentation.png", "nevus"),
        Sample("b", tmp_path / "b.png", None, "melanoma"),
    ]
    seen: list[dict[str, Image]] = []

    def judged(**inputs: Image) -> dict[str, Any]:
        seen.append(inputs)
        given = [0.1, 0.9] if len(seen) % 2 else [0.8, 0.2]
        distance = [0.5] if len(seen) % 2 else [1.5]
        return {"PROBABILITIES": np.array(given, np.float32), "DISTANCE": np.array(distance, np.float32)}

    classifier = LoadedModel("c", run=judged, parameters={"labels": "melanoma,nevus"})
    purifier, segmenter = LoadedModel("p", run=whitened), LoadedModel("s", run=dark)
    rows: list[dict[str, object]] = []
    figures = chain.evaluate(chain.Chain(purifier, segmenter, classifier), samples, table=rows, rounds=5)
    share = 1 - 4 / 20  # white, where the hair was, is no lesion: two parts are left, and one is kept
    assert figures["segment_recall"].mean == pytest.approx(0.5, abs=0.01)
    assert figures["segment_precision"].mean == 1
    assert share > figures["segment_jaccard"].mean
    assert figures["purify_replaced"].mean == pytest.approx(4 / 80)
    assert figures["not_dermoscopic"].mean == 0.5
    assert figures["classify_accuracy"].mean == 1
    assert not (seen[0]["IMAGE"].max(axis=2) < 8).any()
    assert int((seen[0]["LESION"] > 0).sum()) == 20 * 10
    assert [row["diagnosis"] for row in rows] == ["nevus", "melanoma"]
    assert "segment_jaccard" in rows[0]
    assert "segment_jaccard" not in rows[1]
    rows.clear()
    bare = chain.evaluate(chain.Chain(None, segmenter, None), samples[:1], table=rows)
    assert bare["segment_precision"].mean < 0.8
    assert rows[0]["purify_replaced"] is None
    assert not any(name.startswith("classify") for name in bare)


@pytest.mark.parametrize("size", [(300, 400), (900, 1400)])
def test_what_purification_hands_on_is_what_a_worker_hands_on(size: tuple[int, int]) -> None:
    image = phantom(3, height=size[0], width=size[1], occlusions=()).image
    image[size[0] // 3 : size[0] // 3 + 5] = 0
    model = LoadedModel("p", run=whitened)

    class Client:
        def infer(self, _: LoadedModel, inputs: dict[str, Image], __: object) -> dict[str, Image]:
            return whitened(**inputs)

    worker = served.purify(image, Client(), model, served.PurifyParameters.of(model))  # type: ignore[arg-type]
    picture, share = chain.purified(model, image)
    np.testing.assert_array_equal(picture, worker.image)
    assert share == worker.output.occluded_fraction > 0
    bare = phantom(3, height=size[0], width=size[1], occlusions=()).image
    assert chain.purified(model, bare)[1] == 0


def test_a_chain_with_what_ships_tells_groups_and_writes_a_row_an_image(
    isic_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    val, out = isic_folder / "val", tmp_path / "rows.csv"
    known = ("--masks", val / "masks", "--labels", isic_folder / "labels.csv", "--split", "val")
    words = ("evaluate", "chain", "--images", val / "images", *known, "--map", "seborrheic_keratosis=")
    code, out_text, err = call(
        monkeypatch, capsys, *words, "--long-side", "64,96", "--by", "contrast,source", "--out", out, "--json"
    )
    assert code == 0, err
    told = json.loads(out_text)
    assert told["missing_classes"] == ["seborrheic_keratosis"]
    assert told["mean_auc_over"] == ["melanoma"]
    assert "no image is labelled seborrheic_keratosis" in err
    assert {"segment_jaccard_at_64", "classify_mean_auc_at_96", "purify_replaced_at_96"} <= set(told["figures"])
    assert sum(told["groups"].values()) == told["images"] == 4
    assert all(name.startswith("contrast_") for name in told["groups"])  # phantoms are of no archive
    some = next(iter(told["groups"]))
    assert f"segment_jaccard_{some}_at_64" in told["figures"]
    for figure in told["figures"].values():
        assert figure["low"] <= figure["high"]
    rows = read_table(out)
    assert len(rows) == 8
    assert {row["source"] for row in rows} == {""}
    columns = {"long_side", "image_id", "diagnosis", "contrast", "segment_jaccard", "melanoma", "distance"}
    assert columns <= set(rows[0])


def test_labels_that_a_model_does_not_know_are_told_before_models_are_loaded(
    isic_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(*_: object, **__: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(predictors, "load_model", load)
    val = isic_folder / "val"
    (tmp_path / "zoster.csv").write_text("image_id,diagnosis\nPH_val_0,zoster\nPH_val_1,nevus\n")
    (tmp_path / "nevi.csv").write_text("image_id,diagnosis\nPH_val_0,nevus\nPH_val_1,nevus\n")
    images, masks = ("--images", val / "images"), ("--masks", val / "masks")
    for words in (
        ("classify", *images, "--labels", tmp_path / "zoster.csv"),
        ("classify", *images, "--labels", tmp_path / "zoster.csv", "--model", "x.pt", "--classes", "nevus,wart"),
        ("chain", *images, "--labels", tmp_path / "zoster.csv"),
        ("purify", *images, *masks, "--labels", tmp_path / "zoster.csv"),
    ):
        code, _, err = call(monkeypatch, capsys, "evaluate", *words)
        assert (code, len(err.splitlines())) == (2, 1), err
        assert "not classes of" in err
        assert "zoster" in err
    for words, message in (
        (("classify", *images, "--labels", tmp_path / "nevi.csv"), "at least two diagnoses are needed"),
        (("chain", *images), "--masks DIR, --labels FILE or both"),
        (("chain", *images, *masks, "--split", "val"), "name a file with --labels"),
        (("chain", *images, *masks, "--unpurified", "--purify", "x.onnx"), "leave out --purify"),
        (("chain", *images, *masks, "--by", "moon"), "cannot be grouped by moon"),
        (("segment", *images, *masks, "--long-side", "x"), "not a list of pixels"),
        (("segment", *images, *masks, "--long-side", "200,0200"), "names 200 twice"),
        (("chain", *images, *masks, "--long-side", "64,31"), "from 32 pixels on"),
        (("classify", *images, "--labels", "l.csv", "--long-side", "1"), "from 32 pixels on"),
        (("purify", *images, "--long-side", "0"), "from 32 pixels on"),
        (("classify", *images, "--labels", "l.csv", "--whole", "--by", "contrast"), "no contrast of lesions"),
        (("purify", *images, *masks, "--long-side", "64"), "leave out --long-side or --masks"),
    ):
        code, _, err = call(monkeypatch, capsys, "evaluate", *words)
        assert code == 2
        assert message in err


def test_images_with_a_mask_a_diagnosis_or_both_are_found(isic_folder: Path, tmp_path: Path) -> None:
    val = isic_folder / "val"
    (tmp_path / "some.csv").write_text("image_id,diagnosis\nPH_val_0,nevus\nPH_unmasked_0,nevus\nPH_val_9,nevus\n")
    folders = [val / "images", isic_folder / "unmasked_256"]
    found = with_either(folders, val / "masks", tmp_path / "some.csv")
    assert len(found.samples) == 7
    assert sum(one.mask is not None for one in found.samples) == 6
    assert sum(one.diagnosis is not None for one in found.samples) == 2
    assert found.left_out == {"images without a mask or a diagnosis": 1, "diagnoses without an image": 1}
    assert len(with_either(folders, val / "masks", None).samples) == 6
    labelled = with_either(folders, None, isic_folder / "labels.csv", split="val")
    assert len(labelled.samples) == 8
    with pytest.raises(UsageError, match="name a file with --labels"):
        with_either(folders, val / "masks", None, renamed={"a": "b"})


# Groups


@pytest.mark.parametrize(
    ("row", "by", "wanted"),
    [
        ({"image_id": "ISIC_0001152"}, Strata.SOURCE, "source_0"),
        ({"image_id": "ISIC_0001153"}, Strata.SOURCE, "source_1"),
        ({"image_id": "ISIC_0014001"}, Strata.SOURCE, "source_4"),
        ({"image_id": "ISIC_x"}, Strata.SOURCE, None),
        ({"image_id": "PH_1"}, Strata.SOURCE, None),
        ({"image_id": "a", "contrast": 9.9}, Strata.CONTRAST, "contrast_below_10"),
        ({"image_id": "a", "contrast": 10}, Strata.CONTRAST, "contrast_10_to_20"),
        ({"image_id": "a", "contrast": 49}, Strata.CONTRAST, "contrast_20_to_50"),
        ({"image_id": "a", "contrast": 70}, Strata.CONTRAST, "contrast_above_50"),
        ({"image_id": "a", "contrast": float("nan")}, Strata.CONTRAST, None),
        ({"image_id": "a"}, Strata.CONTRAST, None),
    ],
)
def test_images_are_grouped_by_contrast_and_source(row: dict[str, object], by: Strata, wanted: str | None) -> None:
    assert stratum(row, by) == wanted


def test_a_row_has_its_source() -> None:
    assert with_source({"image_id": "ISIC_0014001", "dice": 1}) == {
        "image_id": "ISIC_0014001",
        "source": "4",
        "dice": 1,
    }


def test_groups_have_figures_of_their_own_with_intervals() -> None:
    rows: list[dict[str, object]] = [
        {
            "image_id": f"ISIC_{number:07}",
            "contrast": contrast,
            "jaccard": jaccard,
            "diagnosis": name,
            "a": a,
            "b": 1 - a,
        }
        for number, contrast, jaccard, name, a in (
            (1, 5.0, 0.4, "a", 0.9),
            (2, 5.0, 0.6, "b", 0.2),
            (2000, 60.0, 0.9, "a", 0.1),
            (2001, 60.0, None, "b", 0.8),
        )
    ]
    both = list(Strata)
    assert list(counts(rows, both)) == ["contrast_below_10", "contrast_above_50", "source_0", "source_1"]
    found = means(rows, both, ("jaccard",))
    assert found["jaccard_contrast_below_10"].mean == pytest.approx(0.5)
    assert found["jaccard_contrast_below_10"].low == pytest.approx(0.4)
    assert found["jaccard_source_1"].mean == pytest.approx(0.9)
    areas = of_groups(rows, [Strata.SOURCE], ("a", "b"))
    assert (areas["auc_a_source_0"].mean, areas["auc_a_source_1"].mean) == (1, 0)
    assert of_groups(rows[:1], both, ("a", "b")) == {}


# Tables, sweeps and pairs of the stages alone


def test_purify_and_enhance_write_a_row_an_image(
    isic_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    val, out = isic_folder / "val", tmp_path / "rows.csv"
    images, masks = ("--images", val / "images"), ("--masks", val / "masks")
    words = ("evaluate", "purify", *images, "--count", 2, "--occlusions", "hair,ink", "--long-side", "64,96")
    code, text, err = call(monkeypatch, capsys, *words, "--out", out, "--json")
    assert code == 0, err
    assert {"hair_share_at_64", "ink_outside_at_96"} <= set(json.loads(text)["figures"])
    rows = read_table(out)
    assert len(rows) == 8
    assert {"image_id", "occlusion", "long_side", "before", "after", "outside"} <= set(rows[0])
    code, text, err = call(monkeypatch, capsys, "evaluate", "enhance", *images, *masks, "--out", out, "--json")
    assert code == 0, err
    rows = read_table(out)
    assert len(rows) == json.loads(text)["images"]
    gains = [float(row["gain"]) for row in rows]
    assert np.mean(gains) == pytest.approx(json.loads(text)["figures"]["gain"]["mean"])
    assert json.loads(text)["scale"] == 4
    # Reduced by two and enlarged by four, it is halved; nothing is enlarged by three.
    code, text, err = call(monkeypatch, capsys, "evaluate", "enhance", *images, "--scale", 2, "--json")
    assert code == 0, err
    found = json.loads(text)
    assert found["scale"] == 2
    assert found["figures"]["psnr_bicubic"]["mean"] > np.mean([float(row["psnr_bicubic"]) for row in rows])
    code, _, err = call(monkeypatch, capsys, "evaluate", "enhance", *images, "--scale", 3)
    assert code == 2
    assert "enlarges 4 times" in err


def test_real_hair_of_one_picture_is_laid_over_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Hair that was drawn stands for real hair: as dark and as much of it is on the other picture."""
    images = tmp_path / "images"
    images.mkdir()
    hairy = phantom(5, height=192, width=256, occlusions=("hair",))
    cv2.imwrite(str(images / "hairy.png"), hairy.image[:, :, ::-1])
    for number in range(3):
        bare = phantom(40 + number, height=192, width=256, occlusions=()).image
        cv2.imwrite(str(images / f"bare_{number}.png"), bare[:, :, ::-1])
    samples = [Sample(path.stem, path) for path in sorted(images.iterdir())]
    made = list(pasted_pairs(samples, hairy=1, count=2))
    assert [pair.hair_of for pair in made] == ["hairy", "hairy"]
    for pair in made:
        darker = pair.clean.astype(int) - pair.covered
        assert np.mean(np.abs(darker).max(axis=2) > 25) == pytest.approx(hairy.occlusion.mean(), rel=0.6)
        assert darker.max() > 60
        assert np.mean(darker == 0) > 0.5
    again = list(pasted_pairs(samples, hair=["hairy"], count=2))
    assert [np.array_equal(*(one.covered for one in pair)) for pair in zip(made, again, strict=True)] == [True] * 2
    with pytest.raises(UsageError, match="no picture x to lift hair from"):
        list(pasted_pairs(samples, hair=["x"]))

    pairs = tmp_path / "pairs"
    words = ("data", "pairs", "--images", images, "--hair", "hairy", "--count", 2, "--out", pairs)
    code, text, err = call(monkeypatch, capsys, *words)
    assert code == 0, err
    assert text.startswith("2 pairs")
    assert {row["hair_of"] for row in read_table(pairs / "pairs.csv")} == {"hairy"}
    assert call(monkeypatch, capsys, *words)[0] == 2
    real, out = ("--covered", pairs / "covered", "--clean", pairs / "clean"), tmp_path / "rows.csv"
    words = ("evaluate", "purify", *real, "--long-side", "128,256", "--out", out, "--json")
    code, text, err = call(monkeypatch, capsys, *words)
    assert code == 0, err
    told = json.loads(text)
    assert {"share_at_128", "share_at_256", "outside_at_256"} <= set(told["figures"])
    assert told["figures"]["share_at_256"]["mean"] < 0.8
    assert len(read_table(out)) == 4


def test_no_hair_is_taken_from_pictures_that_have_hardly_any(tmp_path: Path) -> None:
    cv2.imwrite(
        str(tmp_path / "hairy.png"), phantom(5, height=192, width=256, occlusions=("hair",)).image[:, :, ::-1]
    )
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"plain_{number}.png"), np.full((192, 256, 3), 180 + number, np.uint8))
    samples = [Sample(path.stem, path) for path in sorted(tmp_path.iterdir())]
    assert [pair.hair_of for pair in pasted_pairs(samples, hairy=2, count=2)] == ["hairy", "hairy"]
    assert not list(pasted_pairs(samples[1:], hairy=1, count=2))
    with pytest.raises(UsageError, match=r"plain_0.png has hardly any hair"):
        list(pasted_pairs(samples, hair=["plain_0"], count=2))
