"""The recipes of segmentation and classification train, export and serve; and what holds for every recipe."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from costs import count_parameters

from dermbatch.errors import UsageError
from dermbatch.phantoms.phantom import phantom
from dermbatch.stages import Stage
from lesionnets import checkpoint, recipes, segmenter_training, training
from lesionnets.cli import recipe_names
from lesionnets.data.batches.lesion_views import Lesion, RandomViews, plain_view
from lesionnets.data.sources import ham10000
from lesionnets.data.sources.isic import DIAGNOSES
from lesionnets.evaluation.choosing import diagnosis
from lesionnets.evaluation.models import predictors
from lesionnets.export import export
from lesionnets.graphs import classify, segment
from lesionnets.lookup import modules_below
from lesionnets.nets.classify.resnet import ResNet50
from lesionnets.nets.segment.unet_mobilenet import UNetMobileNet
from lesionnets.recipes.classify import classify_resnet
from lesionnets.recipes.enhance import enhance_espcn
from lesionnets.recipes.generate import generate_dcgan
from lesionnets.recipes.mutual import mb_dcnn
from lesionnets.recipes.segment import segment_oneshot, segment_side_layers
from lesionnets.training import RecipeOptions

SEGMENTERS = {
    "segment_dilated": "dilated_unet.DilatedUNet",
    "segment_dilated_lite": "dilated_unet_lite.DilatedUNetLite",
    "segment_efficient": "efficient_unet.EfficientUNet",
    "segment_side_layers": "side_layers.SideLayersVgg",
}


def recipe(name: str) -> ModuleType:
    return import_module(modules_below(recipes)[name])


@pytest.mark.parametrize("name", SEGMENTERS)
def test_a_papers_segmentation_network_trains_exports_and_serves(
    name: str, isic_folder: Path, tmp_path: Path
) -> None:
    options = RecipeOptions(out=tmp_path / "run", data=isic_folder, smoke=True, width=0.07)
    best = recipe(name).train(options)
    trained = checkpoint.load(best, recipe=name)
    assert trained.network == SEGMENTERS[name]
    assert (trained.hyper["width"], trained.hyper["size"]) == (0.07, 64)
    assert {"jaccard", "dice", "entropy", "temperature"} <= set(trained.figures)
    # Two epochs leave a flat answer, which anything would agree with.
    torch.manual_seed(2)
    # Without norms and without ImageNet's weights the small encoder's values fade from layer to layer.
    strength = 1 if name == "segment_dilated_lite" else 0.3
    state = {
        key: value + strength * value.std() * torch.randn_like(value) if value.ndim == 4 else value
        for key, value in trained.state.items()
    }
    lively = tmp_path / "lively.pt"
    checkpoint.save(
        lively, recipe=name, network=trained.network, hyper=trained.hyper, state=state, figures=trained.figures
    )
    model_file = export(lively, tmp_path / "repository")
    card = (tmp_path / "repository" / name / "MODEL_CARD.md").read_text()
    assert "Not described" not in card
    assert "width 0.07" in card
    served = predictors.load_model(model_file, Stage.SEGMENT)
    wrapped = predictors.load_model(lively, Stage.SEGMENT)
    for height, width in ((90, 130), (64, 64)):
        image = phantom(3, height=height, width=width).image
        ours, theirs = (run(IMAGE=image)["LESION"] for run in (wrapped, served))
        assert ours.shape == theirs.shape == (height, width)
        assert np.abs(ours.astype(int) - theirs).max() <= 2
    borders = [run(IMAGE=phantom(3, height=90, width=130).image).get("BORDER") for run in (wrapped, served)]
    if name == "segment_side_layers":
        assert np.abs(borders[0].astype(int) - borders[1]).max() <= 2  # type: ignore[union-attr]
        assert "BORDER" in (tmp_path / "repository" / name / "config.pbtxt").read_text()
    else:
        assert borders == [None, None]
        assert np.ptp(ours) > 3


def test_of_the_side_layers_the_final_score_is_served() -> None:
    torch.manual_seed(0)
    network: Any = checkpoint.network("side_layers.SideLayersVgg", {"width": 0.07, "size": 32}).eval()
    for layer in (network.final, *(side.conv for side in network.sides)):
        torch.nn.init.normal_(layer.weight)
    image = torch.rand(1, 3, 32, 32)
    with torch.inference_mode():
        scores = network(image)
        torch.testing.assert_close(network.logits(image), scores.score)
        assert (scores.score - scores.border).abs().max() > 0.1
        bytes_ = (image * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
        found = segment.SegmentGraph(network)(bytes_)
        scores = network(bytes_.permute(0, 3, 1, 2).float() / 255)
    for served, expected in zip(found, (scores.score, scores.border), strict=True):
        torch.testing.assert_close(served.float() / 255, expected.sigmoid()[:, 0], rtol=0, atol=0.01)


def test_every_side_output_and_both_maps_are_told_the_objective() -> None:
    torch.manual_seed(0)
    network: Any = checkpoint.network("side_layers.SideLayersVgg", {"width": 0.07, "scales": (1.0,)})
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    masks = torch.zeros(2, 1, 32, 32, dtype=torch.uint8)
    masks[:, :, 8:24, 8:20] = 255
    segment_side_layers.loss_step(network, (images, masks)).backward()  # type: ignore[no-untyped-call]
    own = [network.final, network.border.map, network.feature.map, *(side.score for side in network.sides)]
    assert all(layer.bias.grad.abs().item() > 1e-6 for layer in own)


@pytest.fixture(scope="module")
def ham_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten pictures of each diagnosis, two of every lesion."""
    root = tmp_path_factory.mktemp("ham10000")
    (root / "images").mkdir()
    rows = ["image_id,lesion_id,dx,dx_type,age,sex,localization"]
    for number in range(70):
        image = phantom(number // 2, height=24, width=32).image
        cv2.imwrite(str(root / "images" / f"ISIC_{number:07d}.jpg"), image)
        diagnosis = ham10000.DIAGNOSES[number // 10]
        rows.append(f"ISIC_{number:07d},HAM_{number // 2:07d},{diagnosis},histo,45.0,male,trunk")
    (root / "labels.csv").write_text("\n".join(rows) + "\n")
    return root


def test_ham10000_is_split_by_lesion_and_every_diagnosis_is_on_both_sides(ham_folder: Path) -> None:
    rows = csv.DictReader((ham_folder / "labels.csv").read_text().splitlines())
    lesion_of = {row["image_id"]: row["lesion_id"] for row in rows}
    training_set, held_out = ham10000.split_by_lesion(ham_folder)
    assert len(training_set) + len(held_out) == 70
    assert 10 <= len(held_out) <= 18
    lesions = [{lesion_of[sample.image_id] for sample in side} for side in (training_set, held_out)]
    assert not lesions[0] & lesions[1]
    for side in (training_set, held_out):
        assert {sample.diagnosis for sample in side} == set(ham10000.DIAGNOSES)
    assert ham10000.split_by_lesion(ham_folder) == (training_set, held_out)


def test_bad_labels_of_ham10000_are_usage_errors(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images" / "a.jpg"), np.zeros((4, 4, 3), np.uint8))
    heading = "image_id,lesion_id,dx\n"
    for labels, message in (
        ("a,x,wart\n", "other than akiec, bcc, .*: wart"),
        ("a,x,nv\n", "too few images of a diagnosis: 1"),
        ("b,x,nv\n", "too few images of a diagnosis: 0"),
        ("", "holds no labels"),
    ):
        (tmp_path / "labels.csv").write_text(heading + labels)
        assert ham10000.is_ham10000(tmp_path)
        with pytest.raises(UsageError, match=message):
            ham10000.split_by_lesion(tmp_path)
    (tmp_path / "labels.csv").write_bytes(b"\xff\xfe\x00")
    assert not ham10000.is_ham10000(tmp_path)


def test_one_shot_leaves_each_of_seven_diagnoses_out(ham_folder: Path, isic_folder: Path, tmp_path: Path) -> None:
    data = shutil.copytree(ham_folder, tmp_path / "ham10000")
    shutil.copytree(isic_folder.parent / "openclipart", tmp_path / "openclipart")
    (data / "masks").mkdir()
    for path in sorted((data / "images").iterdir()):
        lesion = phantom(int(path.stem[5:]) // 2, height=24, width=32).lesion
        cv2.imwrite(str(data / "masks" / f"{path.stem}_segmentation.png"), lesion.astype(np.uint8) * 255)
    for unseen in ham10000.DIAGNOSES:
        best = segment_oneshot.train(RecipeOptions(out=tmp_path / unseen, data=data, smoke=True, unseen=unseen))
        trained = checkpoint.load(best, recipe="segment_oneshot")
        assert set(trained.figures) == {"dice", f"dice_{unseen}"}
        assert trained.hyper["unseen"] == unseen
    assert len(list(tmp_path.glob("bank-*"))) == 1


def test_resnet_trains_on_three_and_on_seven_diagnoses_under_two_names(
    isic_folder: Path, ham_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diagnosis, "bootstrap", partial(diagnosis.bootstrap, rounds=20))
    for data, name, diagnoses in (
        (isic_folder, "classify_resnet", DIAGNOSES),
        (ham_folder, "classify_resnet_ham10000", ham10000.DIAGNOSES),
    ):
        options = RecipeOptions(out=tmp_path / name, data=data, smoke=True, width=0.0625)
        best = classify_resnet.train(options)
        trained = checkpoint.load(best, recipe=name)
        assert trained.hyper == {"width": 0.0625, "diagnoses": diagnoses, "size": 64}
        assert {"mean_auc", "accuracy", "nll", "temperature"} <= set(trained.figures)
    model_file = export(best, tmp_path / "repository")
    card = (model_file.parents[1] / "MODEL_CARD.md").read_text()
    assert "| Licence | CC BY-NC 4.0" in card
    assert "permits" not in card
    assert "`lesionnets train classify_resnet --data" in card
    assert (model_file.parents[1] / "labels.txt").read_text().split() == list(ham10000.DIAGNOSES)
    served, wrapped = (predictors.load_model(path, Stage.CLASSIFY) for path in (model_file, best))
    drawn = phantom(4, height=90, width=120)
    lesion = drawn.lesion.astype(np.uint8) * 255
    theirs, ours = (run(IMAGE=drawn.image, LESION=lesion) for run in (served, wrapped))
    np.testing.assert_allclose(theirs["PROBABILITIES"], ours["PROBABILITIES"], atol=1e-4)
    np.testing.assert_allclose(theirs["EMBEDDING"], ours["EMBEDDING"], atol=1e-4)
    assert np.abs(theirs["SALIENCY"].astype(int) - ours["SALIENCY"]).max() <= 2
    assert ours["PROBABILITIES"].shape == (7,)
    # It sees the whole picture, wherever the lesion is.
    elsewhere = served(IMAGE=drawn.image, LESION=np.roll(lesion, 40, axis=1))
    np.testing.assert_array_equal(elsewhere["PROBABILITIES"], theirs["PROBABILITIES"])


def test_the_resnet_is_shown_the_whole_picture_as_in_training() -> None:
    network = ResNet50(0.0625, size=64).eval()
    shown: list[torch.Tensor] = []
    network.register_forward_pre_hook(lambda _, inputs: shown.append(inputs[0]))
    drawn = phantom(4, height=384, width=512)
    view, _ = plain_view(Lesion(drawn.image, (np.zeros((384, 512), np.uint8),), 0), 64)
    lesion = drawn.lesion.astype(np.uint8) * 255
    with torch.inference_mode():
        classify.ClassifyGraph(network)(torch.from_numpy(drawn.image)[None], torch.from_numpy(lesion)[None])
    (served,) = shown[0].permute(0, 2, 3, 1).numpy() * 255
    assert np.abs(view.astype(float) - served).mean() < 5
    assert np.abs(view[:, ::-1].astype(float) - served).mean() > 10


def test_class_maps_of_the_resnet_sum_to_its_logits() -> None:
    torch.manual_seed(0)
    network = ResNet50(0.0625, size=64).eval()
    with torch.inference_mode():
        logits, embedding, maps = network(torch.rand(2, 3, 64, 80))
    torch.testing.assert_close(maps.sum(dim=(2, 3)) + network.fc.bias, logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(embedding.norm(dim=1), torch.ones(2))


def test_random_views_come_once_an_epoch_and_again_by_the_seed() -> None:
    image = phantom(0, height=40, width=48).image
    lesions = [Lesion(image, (np.zeros((40, 48), np.uint8),), label) for label in range(6)]
    epochs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        epochs.append([torch.cat(part) for part in zip(*RandomViews(lesions, 16, 2), strict=True)])
    assert all(sorted(labels.tolist()) == list(range(6)) for _, _, labels in epochs)
    torch.testing.assert_close(epochs[0], epochs[1], rtol=0, atol=0)
    assert (epochs[0][0] != epochs[2][0]).any()


class Called(Exception):
    """Ends a recipe where training would begin; holds what the recipe gave to ``fit``."""

    def __init__(self, given: dict[str, Any]) -> None:
        super().__init__()
        self.given = given


@pytest.fixture
def asked(
    isic_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[torch.nn.Module, dict[str, Any]]]:
    """Calls a recipe up to ``fit``; its network and what ``fit`` is given by name."""
    network = UNetMobileNet(0.125, size=64)
    checkpoint.save(
        tmp_path / "segment_mobilenet" / "best.pt",
        recipe="segment_mobilenet",
        network="unet_mobilenet.UNetMobileNet",
        hyper={"width": 0.125, "size": 64},
        state=network.state_dict(),
        figures={},
    )

    def fit(model: torch.nn.Module, *_: Any, **given: Any) -> None:
        raise Called({"model": model, **given})

    def call(name: str, **options: Any) -> tuple[torch.nn.Module, dict[str, Any]]:
        module = recipe(name)
        trunk = mb_dcnn if name.startswith("mb_dcnn") else segmenter_training
        if name.startswith("generate"):
            trunk = generate_dcgan
        if name in ("enhance_plain", "enhance_double"):
            trunk = enhance_espcn
        if name == "generate_dcgan":
            options["diagnosis"] = "melanoma"
        monkeypatch.setattr(module if hasattr(module, "fit") else trunk, "fit", fit)
        with pytest.raises(Called) as called:
            module.train(RecipeOptions(out=tmp_path / name, data=isic_folder, smoke=True, **options))
        given = called.value.given
        return given.pop("model"), given

    return call


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_stops_early_resumes_and_is_seeded(
    name: str, asked: Callable[..., tuple[torch.nn.Module, dict[str, Any]]]
) -> None:
    first, given = asked(name)
    assert 1 < given["patience"] < 100
    assert given["resume"] is False
    again, given = asked(name, seed=5, resume=True, patience=7)
    assert (given["seed"], given["resume"], given["patience"]) == (5, True, 7)
    other, _ = asked(name, seed=5)
    weights = [torch.cat([p.flatten() for p in model.parameters()]) for model in (first, again, other)]
    assert (weights[0] != weights[1]).any()
    torch.testing.assert_close(weights[1], weights[2], rtol=0, atol=0)


ON_IMAGENET = ["classify_mobilenet", "classify_lite", "classify_patterns"]


@pytest.mark.parametrize("name", sorted(set(recipe_names()) - set(ON_IMAGENET)))
def test_every_recipe_takes_a_width_and_its_checkpoint_records_it(
    name: str, asked: Callable[..., tuple[torch.nn.Module, dict[str, Any]]]
) -> None:
    sizes = []
    for width in (0.25, 0.5):
        model, given = asked(name, width=width)
        built = checkpoint.network(given["run"].network, given["run"].hyper)
        assert count_parameters(built) == count_parameters(model)
        sizes.append(count_parameters(model))
    assert sizes[0] < sizes[1]


@pytest.mark.parametrize("name", ON_IMAGENET)
def test_a_recipe_on_imagenet_weights_has_one_width(name: str, isic_folder: Path, tmp_path: Path) -> None:
    options = RecipeOptions(out=tmp_path, data=isic_folder, width=0.5)
    with pytest.raises(UsageError, match="has one width"):
        recipe(name).train(options)


def test_the_width_is_the_papers_on_a_gpu_and_what_trains_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    options = RecipeOptions(out=Path("unused"))
    monkeypatch.setattr(training, "device", lambda: torch.device("cpu"))
    assert options.width_or(0.3) == 0.3
    monkeypatch.setattr(training, "device", lambda: torch.device("cuda"))
    assert options.width_or(0.3) == 1.0
    assert RecipeOptions(out=Path("unused"), smoke=True).width_or(0.3) == 0.125
    assert RecipeOptions(out=Path("unused"), smoke=True, width=0.7).width_or(0.3) == 0.7
