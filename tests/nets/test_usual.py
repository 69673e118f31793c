"""How far pictures are from usual ones: the score by hand, its fit, and the graph that serves it."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor

from dermbatch.errors import UsageError
from dermbatch.models.configuration import read_config
from dermbatch.phantoms.phantom import phantom
from dermbatch.stages import Stage
from lesionnets import checkpoint, cli, export
from lesionnets.data import looks
from lesionnets.evaluation import samples
from lesionnets.evaluation.choosing import usual as choosing
from lesionnets.evaluation.models.predictors import load_model
from lesionnets.graphs.classify import ClassifyGraph
from lesionnets.nets.classify.lite import DIRECTIONS, LiteClassifier
from lesionnets.nets.classify.usual import LEAST, SHRINKAGE, Usual
from lesionnets.nets.efficient_lite import load_imagenet

HYPER = {"version": 0, "classes": 3, "size": 64}


def normal(count: int, spreads: list[float], seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 5 + torch.randn(count, len(spreads), generator=generator) * torch.tensor(spreads)


def test_distances_are_root_mean_squares_in_spreads_and_the_largest_over_its_limit_counts() -> None:
    score = Usual([2, 1], 0)
    score.mean.copy_(torch.tensor([1.0, 2, 3]))
    score.spread.copy_(torch.tensor([1.0, 2, 0.5]))
    score.limits.copy_(torch.tensor([2.0, 4]))
    traits = torch.tensor([[1.0, 2, 3], [4, 2, 3], [1, 10, 4], [1, 2, 6]])
    torch.testing.assert_close(score.distances(traits)[1:, 0], torch.tensor([4.5, 8, 0]).sqrt())
    torch.testing.assert_close(score.distances(traits)[:, 1], torch.tensor([0.0, 0, 2, 6]))
    torch.testing.assert_close(score(traits)[:, 0], torch.tensor([0.0, 4.5**0.5 / 2, 8**0.5 / 2, 1.5]))


def test_a_fit_leaves_others_within_and_the_odd_outside() -> None:
    score, spreads = Usual([3, 2], 1), [1.0, 0.1, 3, 2, 0]
    others = normal(200, spreads, 1)
    score.fit(normal(4000, spreads, 0), others)
    torch.testing.assert_close(score.spread, torch.tensor(spreads) + LEAST, rtol=0.05, atol=0.01)
    torch.testing.assert_close((score.distances(others) / score.limits).amax(dim=0), torch.full((2,), 1 / 1.02))
    assert float((score(normal(2000, spreads, 2)) <= 1).float().mean()) > 0.97
    assert float(score(normal(1, spreads, 3) + torch.tensor([0, 2, 0, 0, 0]))) > 1
    assert float(score(normal(1, spreads, 3) + torch.tensor([0, 0, 0, 0, 1]))) > 1


def test_directions_in_which_usual_pictures_differ_count_less() -> None:
    common = torch.randn(5000, 1, generator=torch.Generator().manual_seed(0))
    traits = common + normal(5000, [0.1] * 4, 1)
    score = Usual([4], 1)
    score.fit(traits, traits)
    along, across = traits.mean(dim=0) + 2 * torch.tensor([[1.0, 1, 1, 1], [1, -1, 1, -1]])
    found = score.distances(torch.stack([along, across]))[:, 0].square()
    assert 9 * found[0] < found[1]
    # The same by the whole covariance, shrunk towards the identity; distances know no common factor.
    apart = (traits - score.mean) / score.spread
    covariance = (1 - SHRINKAGE) * apart.T @ apart / len(apart) + SHRINKAGE * torch.eye(4)
    steps = (torch.stack([along, across]) - score.mean) / score.spread
    exact = (steps * torch.linalg.solve(covariance, steps.T).T).sum(dim=1)
    torch.testing.assert_close(found[0] / found[1], exact[0] / exact[1], rtol=0.02, atol=0)


def test_the_network_diagnoses_alike_whether_it_judges_or_not() -> None:
    torch.manual_seed(0)
    judging = LiteClassifier(size=64, judges=True).eval()
    plain = LiteClassifier(size=64).eval()
    plain.load_state_dict({k: v for k, v in judging.state_dict().items() if not k.startswith("usual.")})
    image, mask = torch.rand(2, 3, 64, 64), torch.ones(2, 1, 64, 64)
    with torch.inference_mode():
        *found, traits = judging.look(image, mask)
        assert all(torch.equal(one, other) for one, other in zip(found, plain(image, mask), strict=True))
        levels = judging.encoder.levels_of(image)
    assert traits.shape == (2, sum(judging.usual.sizes))  # type: ignore[union-attr]
    torch.testing.assert_close(traits[:, :40], levels[2].mean(dim=(2, 3)))
    torch.testing.assert_close(traits[:, 80 + 112 : 80 + 224], levels[3].std(dim=(2, 3), correction=0))


@pytest.fixture(scope="module")
def pictures(isic_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of as many pictures as are needed at least."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(DIRECTIONS):
        shutil.copy(isic_folder / "train" / "images" / f"PH_train_{number % 8}.jpg", folder / f"PH_{number}.jpg")
    return folder


@pytest.fixture(scope="module")
def fitted(pictures: Path, isic_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small checkpoint that the command fitted to phantoms."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("usual") / "best.pt"
    network = LiteClassifier(size=64)
    load_imagenet(network.encoder, 0)
    network.temperature.fill_(1.5)
    checkpoint.save(
        path,
        recipe="classify_lite",
        network="lite.LiteClassifier",
        hyper=HYPER,
        state=network.state_dict(),
        figures={"mean_auc": 0.5},
    )
    with pytest.MonkeyPatch.context() as patch:
        held_out = str(isic_folder / "val" / "images")
        patch.setattr(
            sys, "argv", ["lesionnets", "usual", str(path), "--images", str(pictures), "--held-out", held_out]
        )
        with pytest.raises(SystemExit) as ended:
            cli.main()
    assert not ended.value.code
    return path


def test_fitting_changes_nothing_but_what_is_usual(fitted: Path) -> None:
    trained = checkpoint.load(fitted)
    assert trained.hyper == HYPER | {"judges": True}
    assert trained.figures == {"mean_auc": 0.5}
    assert float(trained.state["temperature"]) == 1.5
    assert float(trained.state["usual.spread"].min()) == pytest.approx(LEAST, rel=0.1)
    assert (trained.state["usual.limits"] > 0).all()


def test_the_same_seed_fits_alike(fitted: Path, pictures: Path, isic_folder: Path, tmp_path: Path) -> None:
    again = shutil.copy(fitted, tmp_path / "again.pt")
    usual, others = (samples.pictures([folder]).samples for folder in (pictures, isic_folder / "val" / "images"))
    choosing.fit(again, usual, others)
    expected = checkpoint.load(fitted).state
    for name in ("mean", "spread", "limits"):
        torch.testing.assert_close(checkpoint.load(again).state[f"usual.{name}"], expected[f"usual.{name}"])
    with pytest.raises(UsageError, match="6 usual pictures are too few: 64 at least"):
        choosing.fit(again, others, others)


def test_a_network_that_cannot_judge_is_refused(tmp_path: Path) -> None:
    path, hyper = tmp_path / "best.pt", {"channels": 4, "blocks": 1}
    state = checkpoint.network("espcn.Espcn", hyper).state_dict()
    checkpoint.save(path, recipe="enhance_x", network="espcn.Espcn", hyper=hyper, state=state, figures={})
    with pytest.raises(UsageError, match="cannot tell unusual pictures; train classify_lite"):
        choosing.fit(path, [], [])


def test_an_export_serves_the_distance_that_pytorch_computes(fitted: Path, tmp_path: Path) -> None:
    model_file = export.export(fitted, tmp_path)
    onnx.checker.check_model(onnx.load(model_file), full_check=True)
    config = read_config(tmp_path / "classify_lite")
    assert [(each.name, list(each.dims)) for each in config.output][3:] == [("DISTANCE", [1])]
    drawn = [phantom(seed, height=120, width=160) for seed in range(2)]
    images = np.stack([each.image for each in drawn])
    images[1] = 255  # a blank page
    lesions = np.stack([each.lesion for each in drawn]).astype(np.uint8) * 255
    session = onnxruntime.InferenceSession(str(model_file), providers=["CPUExecutionProvider"])
    (served,) = session.run(["DISTANCE"], {"IMAGE": images, "LESION": lesions})
    network = checkpoint.load(fitted).build()
    assert isinstance(network, LiteClassifier)
    with torch.inference_mode():
        expected = ClassifyGraph(network).eval()(torch.from_numpy(images), torch.from_numpy(lesions))[3]
    assert (served.shape, served.dtype) == ((2, 1), np.float32)
    np.testing.assert_allclose(served, expected.numpy(), rtol=1e-3)
    assert max(served[0], 1) < served[1]
    one = load_model(fitted, Stage.CLASSIFY)(IMAGE=images[0], LESION=lesions[0])
    np.testing.assert_allclose(one["DISTANCE"], served[0], rtol=1e-3)


def test_other_looks_keep_the_range_of_light_and_their_shares() -> None:
    torch.manual_seed(0)
    images = torch.rand(200, 3, 8, 8)
    grey = (looks.greyed(images, 0.5).std(dim=1) < 1e-6).all(dim=(1, 2)).float().mean()
    assert 0.35 < float(grey) < 0.65
    found = looks.exposed(images, 0.5)
    changed = (found != images).any(dim=(1, 2, 3)).float().mean()
    assert 0.35 < float(changed) < 0.65
    assert 0 <= float(found.min()) <= float(found.max()) <= 1
