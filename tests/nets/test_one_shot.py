"""CD-FSS: prototypes, the two shapes, what algorithm 1 freezes, episodes, the recipe, and both served graphs."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import pytest
import torch
from torch.nn import functional

from dermbatch.errors import UsageError
from dermbatch.phantoms.phantom import phantom
from lesionnets import checkpoint, weights
from lesionnets.data.batches.episodes import NaturalEpisodes
from lesionnets.data.sources.natural import load_things
from lesionnets.evaluation.oneshot import SupportDraws
from lesionnets.export import export
from lesionnets.graphs.one_shot import QueryGraph, SupportGraph
from lesionnets.nets.segment.extractors import Lite, Vgg
from lesionnets.nets.segment.one_shot import Learner, OneShot, masked_average
from lesionnets.recipes.segment import segment_oneshot
from lesionnets.training import Learning, RecipeOptions
from tests.nets.calling import call


def test_prototypes_are_eq_1_but_for_the_spread_of_its_interpolation() -> None:
    torch.manual_seed(0)
    features = functional.interpolate(torch.rand(2, 5, 4, 4), scale_factor=4, mode="nearest")
    mask = torch.zeros(2, 1, 64, 64)
    mask[0, :, 16:48, 16:32], mask[1, :, :16] = 1, 1
    large = functional.interpolate(features, size=(64, 64), mode="nearest")
    expected = (large * mask).sum(dim=(2, 3)) / mask.sum(dim=(2, 3))
    torch.testing.assert_close(masked_average(features, mask), expected)
    assert masked_average(features, torch.zeros_like(mask)).abs().max() == 0


def test_the_papers_shape_is_vgg_of_two_and_four_blocks_with_nothing_beside() -> None:
    network = OneShot("vgg", aided=False, size=224)
    assert isinstance(network.extractor, Vgg)
    assert network.extractor.channels == (128, 512)
    convolutions = [layer for layer in network.extractor.modules() if isinstance(layer, torch.nn.Conv2d)]
    assert [layer.out_channels for layer in convolutions] == [64, 64, 128, 128, 256, 256, 256, 512, 512, 512]
    small = OneShot("vgg", 0.0625, aided=False, size=32)
    image, mask = torch.rand(2, 3, 32, 32), torch.ones(2, 1, 32, 32)
    general, special = small.features(image)
    assert general.shape[-2:] == (16, 16)
    assert special.shape[-2:] == (4, 4)
    known = small.prototypes((general, special), mask)
    assert known.shape == (2, small.length) == (2, sum(small.parts))
    assert small(image, known).shape == (2, 1, 32, 32)


def test_efficientnet_lite_is_cut_at_the_same_strides() -> None:
    extractor = Lite()
    low = extractor.low(torch.rand(1, 3, 64, 64))
    assert (low.shape[1], *low.shape[2:]) == (extractor.channels[0], 16, 16)
    assert extractor.high(low).shape == (1, extractor.channels[1], 8, 8)


def test_a_learner_sees_which_pixels_are_like_the_prototype() -> None:
    seen: list[torch.Tensor] = []
    learner = Learner(2, 4, aided=True, dilations=(1,))
    learner.layers.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    features = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]])
    learner(features, torch.tensor([[2.0, 0.0, 0.0, 3.0]]))
    torch.testing.assert_close(seen[0][0, -2:, 0], torch.tensor([[1.0, 0.0], [0.0, 1.0]]), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("domain", "learns"),
    [
        ("specific", {"extractor.first", "extractor.deep", "narrowed", "specific", "decoder", "head"}),
        ("generic", {"extractor.first", "dilated", "generic", "decoder", "head"}),
    ],
)
def test_each_learning_updates_what_algorithm_1_says(domain: str, learns: set[str]) -> None:
    network = OneShot(width=0.125, size=32)
    network.learn("generic" if domain == "specific" else "specific")
    network.learn(domain)  # type: ignore[arg-type]
    parts = {
        name: ".".join(name.split(".")[: 2 if name.startswith("extractor") else 1])
        for name, _ in network.named_parameters()
    }
    open_ = {parts[name] for name, value in network.named_parameters() if value.requires_grad}
    assert open_ == learns


def test_things_lie_whole_on_their_grounds_and_one_class_is_a_batch(isic_folder: Path) -> None:
    things = load_things(isic_folder.parent / "openclipart", 32)
    assert things.pictures.shape == (6, 4, 32, 32)
    torch.manual_seed(3)
    batch = NaturalEpisodes(things, 32, 4).batch()
    assert batch["images"].shape == (4, 3, 32, 32)
    assert 0 <= float(batch["images"].min()) <= float(batch["images"].max()) <= 1
    assert (batch["masks"].flatten(1).max(dim=1).values > 0.9).all()


def test_a_folder_in_fss_1000s_layout_is_read(tmp_path: Path) -> None:
    for name in ("ab_wheel", "abacus"):
        (tmp_path / name).mkdir()
        cv2.imwrite(str(tmp_path / name / "1.jpg"), np.full((20, 20, 3), 90, np.uint8))
        cv2.imwrite(str(tmp_path / name / "1.png"), np.pad(np.full((10, 10), 255, np.uint8), 5))
    things = load_things(tmp_path, 16)
    assert (things.drawn, things.classes.tolist()) == (False, [0, 1])
    assert things.pictures[0, 3].float().mean() == pytest.approx(255 / 4, rel=0.05)
    with pytest.raises(UsageError, match="holds no pictures of things"):
        load_things(tmp_path / "abacus", 16)


@pytest.mark.parametrize("learning", Learning)
def test_the_recipe_trains_without_the_unseen_diagnosis_and_measures_it(
    learning: Learning, isic_folder: Path, tmp_path: Path
) -> None:
    options = RecipeOptions(
        out=tmp_path / "run", data=isic_folder, smoke=True, unseen="melanoma", learning=learning
    )
    trained = checkpoint.load(segment_oneshot.train(options), recipe="segment_oneshot")
    assert trained.hyper["unseen"] == "melanoma"
    assert trained.hyper["guided"] is (learning is not Learning.PLAIN)
    assert {"dice", "dice_melanoma"} == set(trained.figures)
    again = RecipeOptions(out=tmp_path / "again", data=isic_folder, smoke=True, init=tmp_path / "run" / "best.pt")
    assert segment_oneshot.train(again).is_file()


def test_an_unseen_diagnosis_that_nobody_has_is_refused(isic_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no images of leprosy"):
        segment_oneshot.train(RecipeOptions(out=tmp_path, data=isic_folder, smoke=True, unseen="leprosy"))


def test_both_graphs_are_served_as_they_are_trained(tmp_path: Path) -> None:
    torch.manual_seed(5)
    network = OneShot(width=0.25, size=64, unseen="nevus").eval()
    path = tmp_path / "best.pt"
    checkpoint.save(
        path,
        recipe="segment_oneshot",
        network="one_shot.OneShot",
        hyper={"width": 0.25, "size": 64, "unseen": "nevus"},
        state=network.state_dict(),
        figures={"dice": 0.5},
    )
    query = export(path, tmp_path / "repository", version="2")
    support = tmp_path / "repository" / "oneshot_support" / "2" / "model.onnx"
    for name, words in (
        ("segment_oneshot", ('key: "support_model"', 'key: "unseen"')),
        ("oneshot_support", ("MASK",)),
    ):
        text = (tmp_path / "repository" / name / "config.pbtxt").read_text()
        assert all(word in text for word in words)
        assert "Not described" not in (tmp_path / "repository" / name / "MODEL_CARD.md").read_text()
    drawn = phantom(1, height=90, width=130, kind="ring")
    mask = drawn.lesion.astype(np.uint8)
    sessions = [onnxruntime.InferenceSession(str(file)) for file in (support, query)]
    (known,) = sessions[0].run(None, {"IMAGE": drawn.image[None], "MASK": mask[None]})
    other = phantom(2, height=75, width=60).image
    (lesion,) = sessions[1].run(None, {"IMAGE": other[None], "PROTOTYPES": known})
    with torch.inference_mode():
        ours = SupportGraph(network)(torch.from_numpy(drawn.image)[None], torch.from_numpy(mask)[None])
        mine = QueryGraph(network)(torch.from_numpy(other)[None], ours)
    np.testing.assert_allclose(known, ours.numpy(), atol=1e-3)
    assert lesion.shape == (1, 75, 60)
    assert np.abs(lesion.astype(int) - mine.numpy()).max() <= 2


def saved(folder: Path, unseen: str | None = None) -> Path:
    """A checkpoint of a small network that has learned nothing."""
    torch.manual_seed(7)
    hyper = {"width": 0.25, "size": 32, "unseen": unseen}
    state = OneShot(**hyper).state_dict()  # type: ignore[arg-type]
    path = folder / f"{unseen}.pt"
    checkpoint.save(
        path, recipe="segment_oneshot", network="one_shot.OneShot", hyper=hyper, state=state, figures={}
    )
    return path


def words(folder: Path, *more: object) -> list[object]:
    return [
        *("evaluate", "oneshot", "--images", folder / "train" / "images", "--masks", folder / "train" / "masks"),
        *("--labels", folder / "labels.csv", *more),
    ]


def test_evaluate_oneshot_shows_supports_of_the_same_diagnosis(
    isic_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, rows = saved(tmp_path), tmp_path / "rows.csv"
    asked = words(isic_folder, "--model", path, "--draws", 2, "--shots", 1, "--json", "--out", rows)
    code, out, _ = call(monkeypatch, capsys, *asked)
    assert code == 0
    told = json.loads(out)
    assert (told["stage"], told["unseen"], told["draws"], told["shots"]) == ("oneshot", None, 2, 1)
    assert {"dice", "jaccard", "dice_melanoma", "dice_nevus", "dice_seborrheic_keratosis"} <= set(told["figures"])
    assert told["figures"]["dice"].keys() == {"mean", "low", "high"}
    assert rows.read_text().startswith("image_id,diagnosis,jaccard")
    assert call(monkeypatch, capsys, *asked)[1] == out


def test_weights_that_have_seen_the_diagnosis_are_refused(
    isic_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(weights, "_FOLDER", tmp_path)
    seen, unseen = saved(tmp_path), saved(tmp_path, "nevus")
    for more, why in (
        (("--model", seen, "--unseen", "nevus"), "was trained on all diagnoses"),
        (("--model", unseen, "--unseen", "melanoma"), "never saw nevus alone"),
        (("--unseen", "melanoma"), "no weights come along that never saw melanoma, only some without nothing"),
        (("--unseen", "leprosy"), "no image of leprosy has a mask"),
    ):
        code, _, err = call(monkeypatch, capsys, *words(isic_folder, *more))
        assert (code, why in err) == (2, True), err


def test_atypical_counts_as_nevus_and_picks_the_weights_that_come_along(
    isic_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(weights, "_FOLDER", tmp_path)
    saved(tmp_path, "nevus").rename(tmp_path / "oneshot-without-nevus.pt")
    renamed = ("--map", "nevus=atypical", "--unseen", "atypical", "--draws", 1, "--json")
    code, out, err = call(monkeypatch, capsys, *words(isic_folder, *renamed))
    assert code == 0, err
    told = json.loads(out)
    assert (told["unseen"], told["never_trained_on"]) == ("atypical", "nevus")
    assert told["weights"] == "oneshot-without-nevus.pt"
    assert told["model"] == "segment_oneshot"


def test_evaluate_segment_sends_one_shot_models_to_their_own_command(
    isic_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = ("--images", isic_folder / "val" / "images", "--masks", isic_folder / "val" / "masks")
    code, _, err = call(monkeypatch, capsys, "evaluate", "segment", *folders, "--model", saved(tmp_path))
    assert code == 2
    assert "measure it with `lesionnets evaluate oneshot`" in err


def test_a_picture_is_not_measured_by_a_draw_that_it_is_a_support_of() -> None:
    draws = SupportDraws(shots=2, draws=4, seed=1).of("nevus", 5)
    assert [len(set(one)) for one in draws] == [2, 2, 2, 2]
    assert draws == SupportDraws(shots=2, draws=4, seed=1).of("nevus", 5)
    with pytest.raises(UsageError, match="more than 5 are needed"):
        SupportDraws(shots=5).of("nevus", 5)
