"""MB-DCNN's recipe: four parts in order, resumed between and within them, and what holds them together."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from dermbatch.phantoms.phantom import phantom
from lesionnets import checkpoint
from lesionnets.data.batches.guided import Guided, GuidedViews
from lesionnets.nets.classify.mobilenet import MobileNetV2
from lesionnets.nets.mutual.mask_guided import localisation_map
from lesionnets.nets.mutual.mb_dcnn_mobile import (
    DEEP,
    MobileCoarseSN,
    MobileEnhancedSN,
    MobileMaskCN,
    dilated_layers,
)
from lesionnets.nets.mutual.mutual import MutualSN
from lesionnets.recipes.mutual import mb_dcnn, mb_dcnn_xception
from lesionnets.training import RecipeOptions

PARTS = ("coarse", "mask", "unguided", "enhanced")


class Killed(Exception):
    """Stands for the end of the process."""


@pytest.fixture(scope="module")
def run(isic_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the recipe that was killed after its first part, within its third, and resumed."""
    out = tmp_path_factory.mktemp("mb_dcnn")
    fit, trained = mb_dcnn.fit, []

    def killed(*args: object, **options: object) -> object:
        part = options["run"].out_dir.name  # type: ignore[attr-defined]
        trained.append(part)
        if trained == ["coarse", "mask"]:
            raise Killed
        outcome = fit(*args, **options)  # type: ignore[arg-type]
        if trained == ["coarse", "mask", "mask", "unguided"]:
            raise Killed
        return outcome

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mb_dcnn, "fit", killed)
        for resume in (False, True):
            with pytest.raises(Killed):
                mb_dcnn.train(RecipeOptions(out, isic_folder, smoke=True, resume=resume))
        best = mb_dcnn.train(RecipeOptions(out, isic_folder, smoke=True, resume=True))
    assert trained == ["coarse", "mask", "mask", "unguided", "unguided", "enhanced"]
    assert best == out / "best.pt"
    return out


def test_every_part_has_a_folder_of_its_own_with_all_that_a_run_has(run: Path) -> None:
    for part in PARTS:
        with (run / part / "log.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [row["epoch"] for row in rows] == ["1"], f"{part} was trained once, resumed or not"
        assert (run / part / "last.pt").is_file()
        assert mb_dcnn.finished(run / part / "best.pt")


def test_the_whole_holds_the_parts_as_they_were_trained(run: Path) -> None:
    whole = checkpoint.load(run / "best.pt", recipe="segment_mb_dcnn").build()
    assert isinstance(whole, MutualSN)
    for network, part in ((whole.coarse, "coarse"), (whole.guide, "mask")):
        for name, value in checkpoint.load(run / part / "best.pt").state.items():
            torch.testing.assert_close(network.state_dict()[name], value, rtol=0, atol=0)
    coarse, enhanced = whole.coarse.state_dict(), whole.enhanced.state_dict()
    changed = [name for name in coarse if (coarse[name] != enhanced[name]).any()]
    assert any(name.startswith("decoder") for name in changed), "enhanced-SN learns"
    figures = checkpoint.load(run / "best.pt").figures
    assert {"jaccard", "coarse_jaccard", "mask_mean_auc", "unguided_mean_auc", "temperature"} <= set(figures)


def test_finished_parts_are_not_trained_again_but_without_resume_all_are(
    run: Path, isic_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = shutil.copytree(run, tmp_path / "again")

    def refuse(*_: object, **__: object) -> None:
        raise Killed

    monkeypatch.setattr(mb_dcnn, "fit", refuse)
    before = (run / "best.pt").read_bytes()
    assert mb_dcnn.train(RecipeOptions(again, isic_folder, smoke=True, resume=True)).read_bytes() == before
    with pytest.raises(Killed):
        mb_dcnn.train(RecipeOptions(again, isic_folder, smoke=True))
    assert not any(mb_dcnn.finished(again / part / "best.pt") for part in PARTS), "no part of the old run is left"


def test_the_papers_network_takes_the_same_recipe(isic_folder: Path, tmp_path: Path) -> None:
    best = mb_dcnn_xception.train(RecipeOptions(tmp_path, isic_folder, smoke=True))
    trained = checkpoint.load(best)
    assert trained.hyper["backbone"] == "xception"
    assert trained.build()(torch.rand(1, 3, 64, 64)).shape == (1, 1, 64, 64)


def test_minutes_are_divided_among_the_parts(tmp_path: Path) -> None:
    options = RecipeOptions(tmp_path, minutes=10)
    assert sum(mb_dcnn.budget(options, part)["minutes"] for part in PARTS) == pytest.approx(10)


def test_frozen_parts_stay_in_evaluation_mode_and_get_no_gradient() -> None:
    model = MutualSN("mobilenet", {"size": 64, "width": 0.25}, {"size": 64}).train()
    assert not any(module.training for module in (*model.coarse.modules(), *model.guide.modules()))
    assert model.enhanced.training
    model(torch.rand(2, 3, 64, 64)).sum().backward()
    taught = {name.partition(".")[0] for name, value in model.named_parameters() if value.grad is not None}
    assert taught == {"enhanced"}


def test_enhanced_sn_begins_as_coarse_sn() -> None:
    torch.manual_seed(0)
    coarse, enhanced = MobileCoarseSN(0.25, 64).eval(), MobileEnhancedSN(0.25, 64).eval()
    enhanced.load_state_dict(coarse.state_dict(), strict=False)
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        begun = enhanced(image, torch.zeros(1, 1, 4, 4))
        torch.testing.assert_close(begun, coarse(image))
        assert (enhanced(image, torch.ones(1, 1, 4, 4)) == begun).all(), "the map's weights begin at zero"


def test_the_dilated_backbone_sees_what_the_striding_one_saw() -> None:
    torch.manual_seed(0)
    plain, dilated = MobileNetV2().eval(), MobileNetV2().eval()
    dilated.load_state_dict(plain.state_dict())
    layers = torch.nn.Sequential(*dilated_layers(dilated)[: DEEP[0] + 1])
    image = torch.rand(1, 3, 320, 320)
    with torch.inference_mode():
        expected, found = plain.layers[: DEEP[0] + 1](image), layers(image)
    assert found.shape[-2:] == (20, 20)
    # Away from the border, which is padded elsewhere: the striding one's places are every second of these.
    torch.testing.assert_close(found[..., 1::2, 1::2][..., 3:-3, 3:-3], expected[..., 3:-3, 3:-3])


def test_mask_cn_begins_blind_to_the_mask_as_a_colour_and_pools_over_it() -> None:
    torch.manual_seed(0)
    model, backbone = MobileMaskCN(size=64).eval(), MobileNetV2()
    model.load_encoder(backbone)
    image = torch.rand(2, 3, 64, 64)
    mask = torch.zeros(2, 1, 64, 64)
    mask[..., :32, :32] = 1
    with torch.inference_mode():
        first = model.backbone[0]
        torch.testing.assert_close(first(torch.cat([2 * image - 1, mask], 1)), backbone.layers[0](2 * image - 1))
        logits, maps = model(image, mask)
        assert (model(image, torch.ones_like(mask))[0] != logits).any()
    torch.testing.assert_close(maps.mean(dim=(2, 3)) + model.head.bias, logits)
    where = localisation_map(logits, maps)
    assert where.amin() >= 0
    torch.testing.assert_close(where.amax(dim=(1, 2, 3)), torch.ones(2))


def test_views_carry_the_mask_along_and_the_control_sees_the_same_pictures_without() -> None:
    # A lesion in a corner, painted blue: so what its mask should cover can be told from the view.
    images = np.stack([phantom(seed, height=96, width=96).clean for seed in range(4)])
    lesions = np.zeros((4, 96, 96), np.uint8)
    lesions[:, 10:46, 10:70] = 255
    images[lesions > 0] = (0, 0, 255)
    pictures = Guided(images, np.stack([lesions, lesions], axis=1), np.arange(4) % 3)
    views = []
    for guided in (True, False):
        torch.manual_seed(1)
        views.append(next(iter(GuidedViews(pictures, 64, 4, guided=guided))))
    (seen, masks, labels), (same, whole, _) = views
    assert (seen == same).all()
    assert (whole == 255).all()
    assert sorted(labels.tolist()) == [0, 0, 1, 2]
    blue = seen[:, 2].int() - seen[:, 0].int() > 100
    inside = masks[:, 0] > 127
    assert (inside & blue).sum() / (inside | blue).sum() > 0.6
