"""The command ``lesionnets``: a whole journey on phantoms, and one sentence for every wrong call."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
from calling import call

from dermbatch.settings import DEFAULT_MODELS
from dermbatch.stages import Stage
from lesionnets import checkpoint
from lesionnets.evaluation.figures.intervals import Figure
from lesionnets.graphs import segment
from lesionnets.nets.segment.unet_mobilenet import UNetMobileNet


def test_train_then_evaluate_both_networks(
    isic_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    models = {}
    for recipe in ("segment_mobilenet", "classify_mobilenet"):
        words = ("train", recipe, "--data", isic_folder, "--out", tmp_path / recipe, "--smoke", "--threads", 1)
        code, out, err = call(monkeypatch, capsys, *words)
        assert code == 0, err
        models[recipe] = Path(out.strip().splitlines()[-1])
        assert checkpoint.load(models[recipe]).recipe == recipe
    val = isic_folder / "val"

    network = checkpoint.load(models["segment_mobilenet"]).build()
    assert isinstance(network, UNetMobileNet)
    onnx.save(segment.build(network), tmp_path / "model.onnx")
    common = ("--images", val / "images", "--masks", val / "masks", "--json")
    reports = []
    for model in (models["segment_mobilenet"], tmp_path / "model.onnx"):
        code, out, err = call(monkeypatch, capsys, "evaluate", "segment", *common, "--model", model)
        assert code == 0, err
        reports.append(json.loads(out))
    assert reports[0]["images"] == 6
    assert reports[0]["resolution"].startswith("served")
    code, out, err = call(
        monkeypatch,
        capsys,
        "evaluate",
        "segment",
        *common,
        "--model",
        models["segment_mobilenet"],
        "--native",
        "--flips",
    )
    assert code == 0, err
    flipped = json.loads(out)
    assert flipped["resolution"].startswith("native")
    assert flipped["figures"]["calibration_error"] != reports[0]["figures"]["calibration_error"]
    for name, figure in reports[0]["figures"].items():
        assert figure["low"] <= figure["mean"] <= figure["high"]
        assert reports[1]["figures"][name]["mean"] == pytest.approx(figure["mean"], abs=0.05)

    labels = ("--labels", isic_folder / "labels.csv", "--split", "val", "--segment", models["segment_mobilenet"])
    folders = ("--images", val / "images", "--images", isic_folder / "unmasked_256")
    words = ("evaluate", "classify", *folders, *labels, "--model", models["classify_mobilenet"])
    code, out, err = call(monkeypatch, capsys, *words, "--json")
    assert code == 0, err
    measured = json.loads(out)["figures"]
    assert {"auc_melanoma", "mean_auc", "accuracy"} <= set(measured)
    (tmp_path / "classify.json").write_text(out)
    words = ("export", models["classify_mobilenet"], "--repository", tmp_path / "repository")
    code, out, err = call(monkeypatch, capsys, *words, "--figures", tmp_path / "classify.json")
    assert code == 0, err
    assert (
        f"| mean auc | {Figure(**measured['mean_auc'])} |" in (Path(out).parents[1] / "MODEL_CARD.md").read_text()
    )
    words = ("evaluate", "classify", *folders, *labels, "--model", models["classify_mobilenet"])
    code, out, err = call(monkeypatch, capsys, *words)
    assert code == 0, err
    assert "mean_auc" in out
    assert "lesionnets: left out 8 diagnoses without an image" not in err  # those of the other split

    purifier = tmp_path / "purify.pt"
    state = checkpoint.network("purifier.Purifier", {"widths": [4, 4]}).state_dict()
    checkpoint.save(
        purifier, recipe="purify_x", network="purifier.Purifier", hyper={"widths": [4, 4]}, state=state, figures={}
    )
    stages = ("--model", purifier, "--segment", models["segment_mobilenet"])
    words = ("evaluate", "purify", *common, *stages, "--classify", models["classify_mobilenet"], "--count", 2)
    code, out, err = call(monkeypatch, capsys, *words, "--labels", isic_folder / "labels.csv")
    assert code == 0, err
    assert err == "lesionnets: left out 10 diagnoses without an image\n"
    told = json.loads(out)
    assert told["left_out"] == {"diagnoses without an image": 10}
    assert told["drawn_on"] == 2
    assert {"hair_share", "jaccard_on_minus_off", "mean_auc_on_minus_clean"} <= set(told["figures"])


def test_what_ships_is_measured_where_no_model_is_named(
    isic_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    val = isic_folder / "val"
    images, masks = ("--images", val / "images", "--json"), ("--masks", val / "masks")
    labels = ("--labels", isic_folder / "labels.csv", "--split", "val")
    told = {}
    for name, words in {
        "segment": ("segment", *images, *masks),
        "classify": ("classify", *images, *labels),
        "experts": ("classify", *images, *labels, *masks),
        "whole": ("classify", *images, *labels, "--whole"),
        "purify": ("purify", *images, "--count", 1),
        "enhance": ("enhance", *images, *masks),
    }.items():
        code, out, err = call(monkeypatch, capsys, "evaluate", *words)
        assert code == 0, err
        told[name] = json.loads(out)
        stage = Stage(told[name]["stage"])
        assert Path(told[name]["model"]).parts[-3] == DEFAULT_MODELS[stage].name
    assert "segment_lite" in told["classify"]["lesions"]
    assert [told[name]["experts_masks"] for name in ("classify", "experts", "whole")] == [0, 6, 0]
    assert told["whole"]["lesions"] == "none"
    nlls = {told[name]["figures"]["nll"]["mean"] for name in ("classify", "experts", "whole")}
    assert len(nlls) == 3
    assert not any("jaccard" in name for name in told["purify"]["figures"])


def hairy_copies(clean: Path, tmp_path: Path) -> tuple[Path, str, Path]:
    """One picture with a dark line over it, and one without, beside their folder."""
    covered = tmp_path / "covered"
    covered.mkdir()
    with_line, without = sorted(clean.iterdir())[:2]
    shutil.copy(without, covered)
    picture = cv2.imread(str(with_line))
    picture[10:13] = 0
    cv2.imwrite(str(covered / f"{with_line.stem}.png"), picture)
    return covered, "--clean", clean


def test_evaluate_enhance_and_purify(
    isic_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    val = isic_folder / "val"
    folders = ("--images", val / "images", "--masks", val / "masks", "--json")
    figures = {}
    for stage, name, hyper in (
        ("enhance", "espcn.Espcn", {"channels": 4, "blocks": 1}),
        ("purify", "purifier.Purifier", {"widths": [4, 4]}),
    ):
        path = tmp_path / f"{stage}.pt"
        state = checkpoint.network(name, hyper).state_dict()
        checkpoint.save(path, recipe=f"{stage}_x", network=name, hyper=hyper, state=state, figures={})
        if stage == "enhance":
            words = (*folders[:2], "--json", "--degradation", "clinical")
        else:
            words = (*folders, "--count", "3", "--occlusions", "hair, ruler,ink")
        code, out, err = call(monkeypatch, capsys, "evaluate", stage, *words, "--model", path)
        assert code == 0, err
        figures[stage] = json.loads(out)["figures"]
    real = ("--covered", *hairy_copies(val / "images", tmp_path), "--json", "--model", tmp_path / "purify.pt")
    code, out, err = call(monkeypatch, capsys, "evaluate", "purify", *real)
    assert code == 0, err
    told = json.loads(out)
    assert told["images"] == 1
    assert told["left_out"] == {"clean pictures without a covered one": 4, "pairs with hardly any hair": 1}
    assert {"share", "outside", "before", "after", "remaining"} <= set(told["figures"])
    # Untrained, the enhancer interpolates: neither better nor worse than bicubic interpolation by much.
    assert abs(figures["enhance"]["gain"]["mean"]) < 0.5
    assert set(figures["enhance"]) == {"psnr", "psnr_bicubic", "gain", "ssim", "ssim_bicubic", "ssim_gain"} | {
        "reduced_error",
        "reduced_error_bicubic",
    }
    for kind in ("hair", "ruler", "ink"):
        assert figures["purify"][f"{kind}_before"]["mean"] > 5
        assert {f"{kind}_after", f"{kind}_share", f"{kind}_outside"} <= set(figures["purify"])


def orphan(data: Path) -> str:
    (data / "train" / "images" / "PH_train_0.jpg").unlink()
    return "there is no image for the mask"


def squeezed(data: Path) -> str:
    path = data / "train" / "masks" / "PH_train_1_segmentation.png"
    cv2.imwrite(str(path), np.full((96, 96), 255, np.uint8))
    return "is 96 x 96 pixels, but its image 128 x 96"


def emptied(data: Path) -> str:
    path = data / "val" / "masks" / "PH_val_1_segmentation.png"
    cv2.imwrite(str(path), np.zeros((96, 128), np.uint8))
    return "is empty"


def torn(data: Path) -> str:
    path = data / "train" / "images" / "PH_train_1.jpg"
    path.write_bytes(path.read_bytes()[:100])
    return "cannot be read as an image"


def bare(data: Path) -> str:
    shutil.rmtree(data / "val" / "masks")
    return "there is no folder"


DAMAGE: dict[str, Callable[[Path], str]] = {
    each.__name__: each for each in (orphan, squeezed, emptied, torn, bare)
}
"""Spoil a data folder; the sentence that follows."""


def test_wrong_calls_get_one_sentence_and_exit_code_2(
    isic_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint.save(
        tmp_path / "classify.pt", recipe="classify_x", network="unet.UNet", hyper={}, state={}, figures={}
    )
    widths = {"widths": [4, 4]}
    state = checkpoint.network("purifier.Purifier", widths).state_dict()
    checkpoint.save(
        tmp_path / "purify.pt",
        recipe="purify_x",
        network="purifier.Purifier",
        hyper=widths,
        state=state,
        figures={},
    )
    (tmp_path / "text.onnx").write_text("no model")
    empty = tmp_path / "empty"
    empty.mkdir()
    val = isic_folder / "val"
    pairs = ("--images", val / "images", "--masks", val / "masks")
    orphans = ("--images", val / "images", "--masks", isic_folder / "train" / "masks")
    images = ("--images", val / "images")
    shipped = Path(__file__).parents[2] / "model_repository"
    names = ("segment_lite", "classify_lite")
    model, classifier = (shipped / name / "1" / "model.onnx" for name in names)
    hyper = {"channels": 4, "blocks": 1}
    state = checkpoint.network("espcn.Espcn", hyper).state_dict()
    checkpoint.save(
        tmp_path / "enhance.pt", recipe="enhance_x", network="espcn.Espcn", hyper=hyper, state=state, figures={}
    )
    (tmp_path / "zoster.csv").write_text("image_id,diagnosis\nPH_val_0,zoster\nPH_val_1,nevus\n")
    (tmp_path / "picture").mkdir()
    cv2.imwrite(str(tmp_path / "picture" / "a.png"), np.zeros((64, 64, 3), np.uint8))
    for folder, mask in (("hollow", np.zeros((64, 64), np.uint8)), ("other", np.full((20, 32), 255, np.uint8))):
        (tmp_path / folder).mkdir()
        cv2.imwrite(str(tmp_path / folder / "a_segmentation.png"), mask)
    hollow, other = (
        ("--images", tmp_path / "picture", "--masks", tmp_path / folder) for folder in ("hollow", "other")
    )
    wrong = {
        ("train", "no_such_recipe"): "no recipe 'no_such_recipe'",
        ("train", "segment_unet", "--out", tmp_path): "name their folder with --data",
        ("train", "segment_unet", "--out", tmp_path, "--data", tmp_path / "none"): "no data folder",
        ("train", "segment_unet", "--out", tmp_path, "--data", empty): "there is no folder",
        ("train", "classify_mobilenet", "--out", tmp_path / "c", "--data", isic_folder): "train segment_mobilenet",
        ("evaluate", "segment", *pairs, "--model", tmp_path / "none.pt"): "no model file",
        (
            "evaluate",
            "purify",
            *pairs,
            "--model",
            tmp_path / "purify.pt",
            "--occlusions",
            "moss",
        ): "'moss' cannot be drawn over images",
        ("evaluate", "segment", *pairs, "--model", tmp_path / "text.onnx"): "cannot be read as an ONNX",
        ("evaluate", "segment", *pairs, "--model", isic_folder / "labels.csv"): "not a checkpoint",
        ("evaluate", "segment", *pairs, "--model", tmp_path / "classify.pt"): "not for the segment stage",
        ("evaluate", "segment", "--images", empty, "--masks", val / "masks", "--model", "x.pt"): "holds no image",
        ("evaluate", "segment", *orphans, "--model", "x.pt"): "8 of 8 masks",
        ("evaluate", "segment", *hollow, "--model", model): "is empty",
        ("evaluate", "segment", *other, "--model", model): "is 32 x 20 pixels, but its image 64 x 64",
        (
            "evaluate",
            "segment",
            *pairs,
            "--model",
            "triton://127.0.0.1:1/x",
        ): "no Triton answers gRPC at 127.0.0.1:1",
        ("evaluate", "classify", *images, "--labels", tmp_path / "zoster.csv", "--model", classifier): "zoster",
        ("evaluate", "classify", *images, "--labels", empty / "l.csv", "--model", classifier): "no label file",
        ("evaluate", "classify", *pairs, "--labels", empty / "l.csv", "--whole"): "leave out --masks",
        ("evaluate", "purify", *images, "--labels", empty / "l.csv"): "also name --masks",
        ("evaluate", "purify", "--covered", empty): "--covered DIR and --clean DIR, but not --images",
        ("evaluate", "purify", "--model", "x.pt"): "name images to draw on",
        ("evaluate", "purify", "--covered", val / "images", "--clean", empty): "of the same name in",
        ("export", tmp_path / "enhance.pt", "--repository", tmp_path, "--flips"): "not for the enhance stage",
        ("export", tmp_path / "enhance.pt", "--figures", tmp_path / "text.onnx"): "text.onnx is not what",
    }
    for name, damage in DAMAGE.items():
        damaged = tmp_path / name
        shutil.copytree(isic_folder, damaged)
        wanted = damage(damaged)
        for recipe in ("segment_unet", "segment_mobilenet"):
            wrong["train", recipe, "--smoke", "--out", tmp_path / "runs", "--data", damaged] = wanted
    unknown = tmp_path / "unknown"
    shutil.copytree(isic_folder, unknown)
    with (unknown / "labels.csv").open("a") as labels:
        labels.write("PH_train_9,train,wart,0\n")
    wrong["train", "classify_resnet", "--smoke", "--out", tmp_path / "runs", "--data", unknown] = (
        "seborrheic_keratosis: wart"
    )
    torch.save({"told": {"recipe": "segment_x"}, "state": {}, "parts": {}}, tmp_path / "last.pt")
    smoke = ("--smoke", "--data", isic_folder, "--width", 0.1)
    wrong["train", "segment_dilated", *smoke, "--out", tmp_path, "--resume"] = (
        "is a run of recipe 'segment_x', not"
    )
    wrong["train", "classify_mobilenet", "--out", tmp_path, "--data", isic_folder, "--width", 0.5] = (
        "has one width"
    )
    for words, message in wrong.items():
        code, _, err = call(monkeypatch, capsys, *words)
        assert code == 2, words
        assert message in err
        assert len(err.strip().splitlines()) == 1, err


def test_a_sweep_renames_diagnoses_and_writes_a_row_an_image(
    isic_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images, labels = isic_folder / "val" / "images", tmp_path / "labels.csv"
    text = (isic_folder / "labels.csv").read_text()
    labels.write_text(text.replace("seborrheic_keratosis", "bkl"))
    common = ("evaluate", "classify", "--images", images, "--labels", labels, "--split", "val", "--whole")
    code, _, err = call(monkeypatch, capsys, *common)
    assert code == 2
    assert "bkl" in err
    table = tmp_path / "rows.csv"
    words = (*common, "--map", "bkl=", "--long-side", "40,80", "--out", table, "--json")
    code, out, err = call(monkeypatch, capsys, *words)
    assert code == 0, err
    assert "no image is labelled seborrheic_keratosis" in err
    told = json.loads(out)
    assert {"mean_auc_at_40", "mean_auc_at_80"} <= set(told["figures"])
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * told["images"]
    assert {row["long_side"] for row in rows} == {"40", "80"}
    assert all(abs(float(row["melanoma"]) + float(row["nevus"]) - 1) <= 1 for row in rows)
    masks = ("--masks", isic_folder / "val" / "masks")
    words = ("evaluate", "segment", "--images", images, *masks, "--long-side", 60, "--out", table, "--json")
    code, out, err = call(monkeypatch, capsys, *words)
    assert code == 0, err
    assert "jaccard" in json.loads(out)["figures"]
    with table.open(newline="") as file:
        assert all(float(row["contrast"]) > 0 for row in csv.DictReader(file))


@pytest.mark.parametrize(
    ("option", "value"),
    [("--long-side", "12,x"), ("--map", "bkl"), ("--map", "nothing=nevus"), ("--map", "bkl=,bkl=nevus")],
)
def test_a_wrong_sweep_or_name_gets_one_sentence(
    option: str, value: str, isic_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("evaluate", "classify", "--images", isic_folder / "val" / "images", "--whole")
    code, _, err = call(monkeypatch, capsys, *words, "--labels", isic_folder / "labels.csv", option, value)
    assert code == 2
    assert value in err or "nothing" in err


@pytest.mark.parametrize(("name", "told"), [("", "is a folder"), ("no/rows.csv", "there is no folder")])
def test_rows_that_cannot_be_written_are_refused_before_anything_is_measured(
    name: str,
    told: str,
    isic_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ("evaluate", "enhance", "--images", isic_folder / "val" / "images", "--out", tmp_path / name)
    code, _, err = call(monkeypatch, capsys, *words)
    assert code == 2
    assert told in err
