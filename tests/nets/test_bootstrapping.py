"""MB-DCNN's parts on frozen layers, and the experiment on folds, at its smallest."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import bootstrapping, generated_lesions
from lesionnets.nets.efficient_lite import EfficientLite
from lesionnets.nets.mutual.mb_dcnn_lite import DEEP, FINE, Front, LiteMaskCN, LiteSN


def lively_encoder() -> EfficientLite:
    """Drawn weights that let something through."""
    torch.manual_seed(1)
    encoder = EfficientLite(0)
    for module in encoder.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
    return encoder.eval()


def test_front_and_rest_are_the_encoder() -> None:
    encoder, image = lively_encoder(), torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        fine, deep = Front(encoder)(image)
        levels = encoder.levels_of(image)
        assert torch.equal(fine, levels[1])
        assert torch.equal(deep, levels[3])
        assert fine.shape == (2, FINE[1], 16, 16)
        told = LiteMaskCN(encoder).eval()
        features = told.taught(told.told(torch.cat([deep, torch.rand(2, 1, 4, 4)], dim=1)))
        torch.testing.assert_close(features, encoder(image))  # what it is told counts once it has learnt
    assert not any(value.requires_grad for value in Front(encoder).parameters())


def test_classifier_s_maps_are_its_logits_and_follow_the_mask() -> None:
    model = LiteMaskCN(lively_encoder()).eval()
    deep, left, right = torch.rand(1, DEEP[1], 4, 4), torch.zeros(1, 1, 16, 16), torch.zeros(1, 1, 16, 16)
    left[..., :8], right[..., 8:] = 1, 1
    with torch.no_grad():
        (logits, maps), (others, _) = model(deep, left), model(deep, right)
    torch.testing.assert_close(maps.mean(dim=(2, 3)) + model.head.bias, logits, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(logits, others)


def test_enhanced_begins_as_coarse_and_learns_of_the_map() -> None:
    torch.manual_seed(1)
    model = LiteSN().eval()
    fine, deep = torch.rand(1, FINE[1], 16, 16), torch.rand(1, DEEP[1], 4, 4)
    with torch.no_grad():
        assert torch.equal(model(fine, deep, torch.zeros(1, 1, 2, 2)), model(fine, deep, torch.ones(1, 1, 2, 2)))
    told = model(fine, deep, torch.ones(1, 1, 2, 2)).square().sum()
    (learnt,) = torch.autograd.grad(told, [model.told.weight])
    assert float(learnt[:, -1].abs().max()) > 0


def test_figures_are_means_of_folds_and_differences() -> None:
    labels = np.array([0.0, 0, 1, 1, 2, 2])
    right, wrong = np.eye(3)[[0, 0, 1, 1, 2, 2]], np.eye(3)[[2, 2, 1, 1, 0, 0]]
    overlaps = {"coarse": np.full(6, 0.5), "enhanced": np.full(6, 0.75), "longer": np.full(6, 0.5)}
    parts = [{"labels": labels, "guided": right, "blind": blind, **overlaps} for blind in (right, wrong)]
    figures = bootstrapping.measured(parts)
    assert figures["guided:mean_auc"].mean == 1.0
    assert figures["blind:auc_melanoma"].mean == pytest.approx((1 + 0.25) / 2)
    assert figures["guided_less_blind:auc_melanoma"].mean == pytest.approx(0.375)
    assert figures["enhanced_less_longer:jaccard"].low == pytest.approx(0.25)
    assert not any("nevus" in name for name in figures)


def test_a_figure_is_left_out_where_a_fold_lacks_its_diagnosis(capsys: pytest.CaptureFixture[str]) -> None:
    labels = [np.array([0, 0, 1, 1, 2, 2]), np.array([0, 0, 1, 1, 1, 1])]  # no keratosis in the second
    arms = dict.fromkeys(generated_lesions.ARMS, np.eye(3)[[0, 0, 1, 1, 2, 2]])
    overlaps = dict.fromkeys(("coarse", "enhanced", "longer"), np.full(6, 0.5))
    parts = [{"labels": one, "guided": arms["all"], "blind": arms["all"], **overlaps} for one in labels]
    for figures, others in (
        (bootstrapping.measured(parts), {"jaccard"}),
        (generated_lesions.measured([(one, arms) for one in labels]), set()),
    ):
        assert {name.partition(":")[2] for name in figures} == {"auc_melanoma"} | others
    said = "left out, as a fold lacks seborrheic_keratosis: auc_seborrheic_keratosis, mean_auc\n"
    assert capsys.readouterr().out == said * 2


def test_the_experiment_runs_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = tmp_path / "told.json"
    monkeypatch.setattr(sys, "argv", ["bootstrapping", "--smoke", "--json", str(told)])
    bootstrapping.main()
    figures = json.loads(told.read_text())
    assert {name.partition(":")[0] for name in figures} >= {"coarse", "guided", "blind", "enhanced", "longer"}
    monkeypatch.setattr(sys, "argv", ["bootstrapping"])
    with pytest.raises(SystemExit) as ended:
        bootstrapping.main()
    assert ended.value.code == 2
