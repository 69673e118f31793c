"""Discovered patterns: what networks add up to, what is served, clusters, how alike they are, the catalogue."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
import pytest
import torch
from calling import call
from lively import lively

from dermbatch.errors import UsageError
from dermbatch.models.contracts import CONTRACTS
from dermbatch.phantoms.phantom import phantom
from dermbatch.stages import Stage
from lesionnets import checkpoint
from lesionnets.evaluation.discovery import clusters, retrieval
from lesionnets.evaluation.discovery.described import Described, load_patterns
from lesionnets.evaluation.models.predictors import load_model
from lesionnets.export import export
from lesionnets.graphs import classify
from lesionnets.nets.classify.bilinear_vgg import BilinearVgg
from lesionnets.nets.classify.lite_patterns import LitePatterns
from lesionnets.nets.classify.pattern_classifier import PatternClassifier, place_weights
from lesionnets.recipes.classify import classify_patterns
from lesionnets.training import RecipeOptions


@pytest.fixture(scope="module")
def network() -> PatternClassifier:
    return lively(LitePatterns(size=64, shallow=6, descriptors=8))


@pytest.mark.parametrize("kind", [LitePatterns, BilinearVgg])
def test_what_places_add_sums_to_the_logits_less_the_bias(kind: type[PatternClassifier]) -> None:
    options: dict[str, Any] = {"width": 0.125} if kind is BilinearVgg else {"shallow": 6, "descriptors": 8}
    model = lively(kind(size=64, **options))
    mask = torch.zeros(3, 1, 64, 64)
    mask[:2, :, 16:40, 8:40] = 1  # and one without a lesion
    with torch.inference_mode():
        logits, embedding, maps, places = model.places(torch.rand(3, 3, 64, 64), mask)
    torch.testing.assert_close(maps.sum(dim=(2, 3)) + model.head.bias, logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(embedding.norm(dim=1), torch.ones(3))
    assert places.described.shape == (3, model.patterns, 4, 4)
    torch.testing.assert_close(places.described.norm(dim=1), torch.ones(3, 4, 4))
    torch.testing.assert_close(places.weights.sum(dim=(1, 2, 3)), torch.ones(3))
    assert maps.abs().amax() > 0.01


def test_descriptors_beyond_the_lesion_change_nothing_but_by_a_trace() -> None:
    model = lively(LitePatterns(size=64, shallow=6, descriptors=8))
    shallow, deep = torch.rand(1, 6, 4, 4), torch.randn(1, 8, 4, 4)
    mask = torch.zeros(1, 1, 64, 64)
    mask[:, :, :32] = 1
    other = deep.clone()
    other[:, :, 2:] = torch.randn(1, 8, 2, 4)
    with torch.inference_mode():
        one, two = (model.diagnose(shallow, each, mask)[0] for each in (deep, other))
        moved = model.diagnose(shallow, other.flip(2), mask)[0]
    assert (one - two).abs().max() < 0.05 * (one - moved).abs().max()


def test_a_place_weighs_by_the_lesion_and_by_what_it_adds_to_the_likeliest_class() -> None:
    maps = torch.zeros(1, 3, 1, 4)
    maps[0, :, 0] = torch.tensor([[3.0, 0, 0, -1], [0, 0, 0, 5], [0, 0, 0, 0]])
    lesion = torch.tensor([[[[0.5, 0.5, 0.0, 0.0]]]])
    first = place_weights(torch.tensor([[2.0, 1.0, 0.0]]), maps, lesion)
    torch.testing.assert_close(first[0, 0, 0], torch.tensor([0.75, 0.25, 0.0, 0.0]))
    last = place_weights(torch.tensor([[0.0, 1.0, 0.0]]), maps, lesion)
    torch.testing.assert_close(last[0, 0, 0], torch.tensor([0.25, 0.25, 0.0, 0.5]))
    nothing = place_weights(torch.tensor([[0.0, 1.0, 0.0]]), 0 * maps, lesion)
    torch.testing.assert_close(nothing, lesion)


def test_patterns_in_onnx_are_those_in_pytorch_and_lie_in_the_lesions_square(
    network: PatternClassifier, tmp_path: Path
) -> None:
    path = tmp_path / "best.pt"
    state, name = network.state_dict(), checkpoint.name_of(LitePatterns)
    hyper = {"size": 64, "shallow": 6, "descriptors": 8}
    checkpoint.save(path, recipe="classify_patterns", network=name, hyper=hyper, state=state, figures={})
    file = export(path, tmp_path / "repository")
    served = load_model(file, Stage.CLASSIFY)  # keeps the stage's contract
    assert (
        'name: "PATTERNS" data_type: TYPE_FP32 dims: [ 24, 24, 14 ]'
        in (file.parent.parent / "config.pbtxt").read_text()
    )
    graph = classify.ClassifyGraph(network).eval()
    for height, width in ((97, 131), (160, 120)):
        drawn = phantom(5, height=height, width=width)
        lesion = 255 * drawn.lesion.astype(np.uint8)
        found = served(IMAGE=drawn.image, LESION=lesion)
        with torch.inference_mode():
            expected = graph(torch.from_numpy(drawn.image)[None], torch.from_numpy(lesion)[None])
        np.testing.assert_allclose(found["PROBABILITIES"], expected[0][0].numpy(), atol=2e-3)
        np.testing.assert_allclose(found["PATTERNS"], expected[3][0].numpy(), atol=2e-3)
        lengths = np.linalg.norm(found["PATTERNS"], axis=2)
        assert lengths.sum() == pytest.approx(1, abs=1e-3)
        reduced = cv2.resize(lesion, (24, 24), interpolation=cv2.INTER_AREA)
        assert lengths[reduced > 250].mean() > 3 * lengths[reduced == 0].mean()


def test_other_classifiers_give_no_patterns_and_the_contract_has_them_as_optional() -> None:
    (patterns,) = (one for one in CONTRACTS[Stage.CLASSIFY].outputs if one.name == "PATTERNS")
    assert patterns.optional
    shipped = onnxruntime.InferenceSession("model_repository/classify_lite/1/model.onnx")
    assert "PATTERNS" not in {one.name for one in shipped.get_outputs()}


def test_what_was_learned_alone_is_the_network_again_on_imagenets_encoder(
    isic_folder: Path, tmp_path: Path
) -> None:
    options = RecipeOptions(out=tmp_path / "run", data=isic_folder, smoke=True)
    best = classify_patterns.train(options)
    assert (best.with_name("learned.pt")).stat().st_size < best.stat().st_size / 20
    whole, learned = load_patterns(best), load_patterns(best.with_name("learned.pt"))
    for name, value in whole.state_dict().items():
        # A smoke test's encoder is no ImageNet's.
        assert name.startswith("encoder.") or torch.equal(value, learned.state_dict()[name])
    again = RecipeOptions(out=tmp_path / "again", data=isic_folder, smoke=True, leave_out=3)
    with pytest.raises(UsageError, match="no image with a diagnosis is from source 3"):
        classify_patterns.train(again)


def planted(count: int = 6, side: int = 4, seed: int = 0) -> tuple[Described, np.ndarray[Any, Any]]:
    """Places of three kinds, in known order; the last row of each picture is no lesion."""
    random = np.random.default_rng(seed)
    kinds = random.integers(0, 3, (count, side * side))
    places = np.eye(3, 8, dtype=np.float32)[kinds] + random.normal(0, 0.02, (count, side * side, 8))
    places /= np.linalg.norm(places, axis=2, keepdims=True)
    inside = np.ones((count, side * side), bool)
    inside[:, -side:] = False
    adds = np.zeros((count, side * side, 2), np.float32)
    adds[..., 0], adds[..., 1] = kinds, -kinds
    weights = np.full((count, side * side), 1 / side**2, np.float32)
    embeddings = np.eye(count, 8, dtype=np.float32)
    likeliest = np.zeros(count, np.int64)
    squares = np.tile(np.float32([0.5, 0.5, 64]), (count, 1))
    described = Described(places.astype(np.float32), inside, weights, adds, embeddings, likeliest, squares)
    return described, kinds


def test_clusters_find_what_was_planted_and_what_each_adds_is_exact() -> None:
    described, kinds = planted()
    found = clusters.discover(described, 3, seed=1)
    assert (found.assigned[~described.inside] == -1).all()
    kind_of = [kinds[found.assigned == pattern] for pattern in range(3)]
    assert all(len(set(one.tolist())) == 1 for one in kind_of)
    counts = [len(one) for one in kind_of]
    assert counts == sorted(counts, reverse=True)
    adds = found.adds(described)
    np.testing.assert_allclose(adds.sum(axis=1), described.adds.sum(axis=1), atol=1e-5)
    for pattern, one in enumerate(kind_of):
        assert adds[:, pattern, 0].sum() == pytest.approx(one.sum())
    np.testing.assert_allclose(found.shares().sum(axis=1), 1, rtol=1e-6)
    with pytest.raises(UsageError, match="too few for 80 patterns"):
        clusters.discover(described, 80, seed=1)


def test_agreement_is_whole_for_renamed_patterns_and_none_by_chance() -> None:
    described, _ = planted(count=40)
    found = clusters.discover(described, 3, seed=1)
    renamed = np.where(found.assigned >= 0, (found.assigned + 1) % 3, -1)
    same = clusters.agreement(found, clusters.Clusters(found.centres, renamed, found.near))
    assert same.overlap == pytest.approx(1)
    assert same.information == pytest.approx(1)
    assert 0.15 < same.chance < 0.3  # of three alike: 1 / 3 of either's, 1 / 5 of both
    random = np.random.default_rng(99)
    other = np.where(found.assigned >= 0, random.integers(0, 3, renamed.shape), -1)
    none = clusters.agreement(found, clusters.Clusters(found.centres, other, found.near))
    assert abs(none.information) < 0.03
    small, _ = planted(side=3)
    with pytest.raises(UsageError, match="networks of the same size"):
        clusters.agreement(found, clusters.discover(small, 3, seed=1))


def test_local_patterns_find_the_picture_of_the_same_places_whatever_their_order() -> None:
    described, _ = planted(count=8)
    random = np.random.default_rng(2)
    # Each picture has a kind of its own in its lesion.
    own = np.eye(8, dtype=np.float32)[np.arange(8) % 4 + 4]
    places = described.places.copy()
    places[:, 0] = own
    places[:, 1:] = own[:, None] + 0.1 * random.normal(size=(8, 15, 8))
    places /= np.linalg.norm(places, axis=2, keepdims=True)
    told = Described(**(vars(described) | {"places": places.astype(np.float32)}))
    near = retrieval.by_patterns(told, told)
    np.testing.assert_allclose(np.diag(near), 1, atol=1e-5)
    off = near - 9 * np.eye(8)
    assert (off.argmax(axis=1) == (np.arange(8) + 4) % 8).all()


def test_right_ones_are_counted_among_others_alone() -> None:
    near = np.array([[9, 5, 4, 3, 2, 1, 0.5], [1, 9, 1, 1, 1, 1, 1]], np.float32)
    held = ["a", "a", "b", "a", "b", "b", "a"]
    shares = retrieval.right(near, ["a", "b"], held, same=False)
    np.testing.assert_allclose(shares, [0.6, 0.4])  # a a b a b; a a b a b in order
    square = np.zeros((7, 7), np.float32) - np.arange(7, dtype=np.float32)
    assert retrieval.right(square, held, held, same=True)[0] == pytest.approx(0.4)  # a b a b b


@pytest.fixture
def trained(network: PatternClassifier, tmp_path: Path) -> list[Path]:
    """Two checkpoints of unlike networks."""
    paths = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        other = lively(LitePatterns(size=64, shallow=6, descriptors=8))
        torch.manual_seed(seed)
        torch.nn.init.normal_(other.head.weight)
        torch.nn.init.normal_(other.project[1].weight)  # type: ignore[arg-type]
        paths.append(tmp_path / f"{seed}.pt")
        checkpoint.save(
            paths[-1],
            recipe="classify_patterns",
            network=checkpoint.name_of(LitePatterns),
            hyper={"size": 64, "shallow": 6, "descriptors": 8},
            state=other.state_dict() | {f"encoder.{k}": v for k, v in network.encoder.state_dict().items()},
            figures={},
        )
    return paths


def test_the_catalogue_is_the_same_again_and_escapes_names(
    trained: list[Path],
    isic_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    images, masks = tmp_path / "images", tmp_path / "masks"
    images.mkdir()
    masks.mkdir()
    names = ["<b>&one", "two", "three"]
    labels = ["image_id,diagnosis", *(f"{name},<i>{'rare' if name == 'two' else 'nevus'}" for name in names)]
    for seed, name in enumerate(names):
        drawn = phantom(seed, height=96, width=128)
        cv2.imwrite(str(images / f"{name}.png"), drawn.image[:, :, ::-1])
        cv2.imwrite(str(masks / f"{name}_segmentation.png"), 255 * drawn.lesion.astype(np.uint8))
    (tmp_path / "labels.csv").write_text("\n".join(labels) + "\n")
    models = [word for path in trained for word in ("--model", path)]
    words = ["patterns", "--images", images, "--masks", masks, *models, "--count", 3, "--out"]
    code, printed, _ = call(monkeypatch, capsys, *words, tmp_path / "a", "--labels", tmp_path / "labels.csv")
    assert (code, printed.strip()) == (0, str(tmp_path / "a" / "patterns.html"))
    assert call(monkeypatch, capsys, *words, tmp_path / "b", "--labels", tmp_path / "labels.csv")[0] == 0
    page = (tmp_path / "a" / "patterns.html").read_text()
    assert page == (tmp_path / "b" / "patterns.html").read_text()
    assert "&lt;b&gt;&amp;one" in page
    assert "<b>" not in page
    assert "<i>" not in page
    told = json.loads((tmp_path / "a" / "patterns.json").read_text())
    assert told["groups"] == {"<i>nevus": 2, "<i>rare": 1}
    assert len(told["patterns"]) == 3
    assert sum(one["share"] for one in told["patterns"]) == pytest.approx(1)
    assert page.count("data:image/jpeg") == sum(len(one["regions"]) for one in told["patterns"])
    assert len(told["agreement"]) == 1
    assert told["agreement_of_clustering_again"]["overlap"] > told["agreement"][0]["chance"]
    # Without labels the network's own guesses stand for them, and that is said.
    assert call(monkeypatch, capsys, *words, tmp_path / "c")[0] == 0
    assert "no labels were given" in (tmp_path / "c" / "patterns.html").read_text()


def test_what_cannot_be_catalogued_is_refused_in_a_sentence(
    trained: list[Path],
    isic_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refused(*words: object) -> str:
        code, _, error = call(monkeypatch, capsys, "patterns", "--model", trained[0], *words)
        assert code == 2
        return error

    images, out = isic_folder / "val" / "images", tmp_path / "out"
    (tmp_path / "empty").mkdir()
    assert "holds no image" in refused("--images", tmp_path / "empty", "--out", out)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.png").write_bytes(b"no picture")
    assert "cannot be read" in refused("--images", tmp_path / "bad", "--out", out)
    assert "is a file" in refused("--images", images, "--out", trained[0])
    assert "--split and --map concern labels" in refused("--images", images, "--out", out, "--split", "val")
    other = tmp_path / "other.pt"
    torch.save({"x": 1}, other)
    assert "is not a checkpoint" in refused("--images", images, "--out", out, "--model", other)
    assert not out.exists()


def test_retrieval_is_measured_beside_whole_embeddings(
    trained: list[Path],
    isic_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folders = ["--images", isic_folder / "val" / "images", "--masks", isic_folder / "val" / "masks"]
    held = ["--held", isic_folder / "train" / "images", "--held-masks", isic_folder / "train" / "masks"]
    words = ["evaluate", "retrieval", *folders, "--labels", isic_folder / "labels.csv", "--model", trained[0]]
    code, printed, _ = call(monkeypatch, capsys, *words, *held, "--json")
    assert code == 0
    told = json.loads(printed)
    assert (told["images"], told["found_among"]) == (6, 8)
    assert {"precision_at_5_whole", "precision_at_5_patterns", "patterns_minus_whole"} <= set(told["figures"])
    code, *_ = call(monkeypatch, capsys, *words, *held, "--most", 5)
    assert code == 2  # fewer than are looked for
