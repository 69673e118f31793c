"""Figures of merit: against scikit-learn, MONAI and cases worked out by hand, and their bounds."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn import metrics

from dermbatch.images.lesion import dice
from lesionnets.data.sources import ham10000
from lesionnets.evaluation import classify
from lesionnets.evaluation.figures.boundary import boundary
from lesionnets.evaluation.figures.calibration import BINS, bins_of, error_by_chance, pixel_error, pixel_gaps
from lesionnets.evaluation.figures.intervals import bootstrap, bootstrap_mean
from lesionnets.evaluation.figures.overlap import FAILED, agreement, jaccard
from lesionnets.evaluation.figures.ranking import Curve, auc_by_class

Mask = npt.NDArray[np.bool_]
MASKS = arrays.arrays(np.bool_, (5, 4))


def probabilities_of(count: int, classes: int = 3, seed: int = 0) -> tuple[npt.NDArray, npt.NDArray]:
    """Scores that rank better than chance, with ties, and labels; every class is there."""
    random = np.random.default_rng(seed)
    labels = np.append(np.arange(classes), random.integers(0, classes, count - classes))
    logits = np.round(random.normal(0, 1, (count, classes)) + 1.2 * np.eye(classes)[labels], 1)
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return scores.astype(np.float32), labels


# Overlap


def test_overlap_of_known_masks() -> None:
    one = np.array([[True, True, False, False]])
    other = np.array([[False, True, True, True]])
    assert jaccard(one, other) == 1 / 4
    assert dice(one, other) == 2 / 5
    nothing = np.zeros((1, 4), bool)
    assert (jaccard(nothing, nothing), dice(nothing, nothing), jaccard(one, nothing)) == (1, 1, 0)


@given(MASKS, MASKS)
def test_dice_and_jaccard_say_the_same(one: Mask, other: Mask) -> None:
    j, d = jaccard(one, other), dice(one, other)
    assert 0 <= j <= d <= 1
    assert d == pytest.approx(2 * j / (1 + j))
    assert jaccard(other, one) == j
    assert jaccard(one, one) == 1


@given(MASKS, MASKS)
def test_agreement_is_what_scikit_learn_finds(predicted: Mask, truth: Mask) -> None:
    found = agreement(predicted, truth)
    assert found["jaccard"] == jaccard(predicted, truth)
    assert found["dice"] == dice(predicted, truth)
    p, t = predicted.ravel(), truth.ravel()
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(t, p))
    assume(truth.any() and not truth.all())
    assert found["precision"] == pytest.approx(metrics.precision_score(t, p, zero_division=0))
    assert found["recall"] == found["sensitivity"] == pytest.approx(metrics.recall_score(t, p))
    assert found["specificity"] == pytest.approx(metrics.recall_score(~t, ~p))


def test_agreement_where_a_mask_is_empty_or_full() -> None:
    nothing, everything = np.zeros((2, 3), bool), np.ones((2, 3), bool)
    assert set(agreement(nothing, nothing).values()) == {1.0}
    assert set(agreement(everything, everything).values()) == {1.0}
    missed = agreement(nothing, everything)
    assert (missed["precision"], missed["recall"], missed["specificity"]) == (0, 0, 1)
    invented = agreement(everything, nothing)
    assert (invented["precision"], invented["recall"], invented["specificity"]) == (0, 1, 0)


@pytest.mark.parametrize(("pixels", "counts"), [(13, True), (12, False)])
def test_a_mask_below_the_challenges_threshold_has_failed(pixels: int, counts: bool) -> None:
    truth = np.ones((1, 20), bool)
    predicted = np.arange(20)[None] < pixels
    found = agreement(predicted, truth)
    assert found["jaccard"] == pixels / 20
    assert (found["jaccard_thresholded"] == found["jaccard"]) is counts
    assert (found["jaccard"] >= FAILED) is counts


# Boundary


def test_boundary_distance_of_shifted_squares() -> None:
    truth, moved = np.zeros((40, 60), bool), np.zeros((40, 60), bool)
    truth[10:20, 10:20] = True
    moved[10:20, 13:23] = True
    found = boundary(moved, truth)
    diagonal = math.hypot(40, 60)
    assert found["hausdorff_95"] == 3
    assert 0 < found["surface_distance"] < 3
    assert found["hausdorff_95_share"] == 3 / diagonal
    assert found["surface_distance_share"] == pytest.approx(found["surface_distance"] / diagonal)


def test_boundary_distance_where_a_mask_is_empty() -> None:
    nothing, square = np.zeros((30, 40), bool), np.zeros((30, 40), bool)
    square[3:9, 4:8] = True
    assert set(boundary(nothing, nothing).values()) == {0.0}
    for found in (boundary(nothing, square), boundary(square, nothing)):
        assert found == {
            "surface_distance": 50,
            "surface_distance_share": 1,
            "hausdorff_95": 50,
            "hausdorff_95_share": 1,
        }


@given(MASKS)
def test_no_distance_to_oneself(mask: Mask) -> None:
    assert set(boundary(mask, mask).values()) == {0.0}


# MONAI calls a function of its own in a way that it deprecates itself.
@pytest.mark.filterwarnings("ignore:monai.metrics.utils get_mask_edges:FutureWarning")
def test_boundary_distances_are_monais() -> None:
    from monai.metrics.hausdorff_distance import compute_hausdorff_distance
    from monai.metrics.surface_distance import compute_average_surface_distance

    random = np.random.default_rng(3)
    for _ in range(20):
        height, width = random.integers(5, 40, 2)
        masks = [random.random((height, width)) < share for share in (0.2, 0.9)]
        found = boundary(*masks)
        one, other = (torch.from_numpy(mask)[None, None].float() for mask in masks)
        mean = compute_average_surface_distance(one, other, include_background=True, symmetric=True)
        far = compute_hausdorff_distance(one, other, include_background=True, percentile=95)
        assert found["surface_distance"] == pytest.approx(float(mean), abs=1e-4)
        assert found["hausdorff_95"] == pytest.approx(float(far), abs=1e-4)


# Calibration


def test_pixels_that_say_what_is_so_have_no_error() -> None:
    probability = np.repeat(np.array([51, 204], np.uint8), 500)[None]  # 0.2 and 0.8
    truth = np.concatenate([np.arange(500) < 100, np.arange(500) < 400])[None]
    gaps = pixel_gaps(probability, truth)
    assert gaps.shape == (BINS,)
    assert pixel_error(gaps[None], np.ones(1)) == pytest.approx(0, abs=1e-12)
    assert pixel_error(pixel_gaps(probability, ~truth)[None], np.ones(1)) == pytest.approx(0.6)


def test_gaps_of_two_images_cancel_where_their_pixels_do() -> None:
    """Too high here and too low there, at the same probability, is calibrated over both images."""
    probability = np.full((1, 10), 153, np.uint8)  # 0.6
    gaps = np.stack([pixel_gaps(probability, np.full((1, 10), truth)) for truth in (True, False)])
    assert pixel_error(gaps, np.ones(2)) == pytest.approx(0.1)
    assert pixel_error(gaps, np.array([3.0, 2.0])) == pytest.approx(0)
    assert pixel_error(gaps, np.array([1.0, 0.0])) == pytest.approx(0.4)


@given(arrays.arrays(np.float32, 7, elements=st.floats(0, 1, width=32)))
def test_every_share_has_a_bin(shares: npt.NDArray[np.float32]) -> None:
    bins = bins_of(shares)
    assert ((bins >= 0) & (bins < BINS)).all()
    assert (np.abs((bins + 0.5) / BINS - shares) <= 0.5 / BINS + 1e-6).all()


# Ranking


def test_auc_of_a_known_ranking() -> None:
    labels = np.array([0, 1, 1, 2, 2])
    probabilities = np.array(
        [[0.5, 0.3, 0.2], [0.6, 0.2, 0.2], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8], [0.2, 0.3, 0.5]], np.float32
    )
    found = auc_by_class(probabilities, labels)
    assert found["auc_melanoma"] == 3 / 4  # one of four others ranks above it
    assert found["auc_seborrheic_keratosis"] == 1
    assert found["mean_auc"] == 7 / 8
    assert "auc_nevus" in found
    assert auc_by_class(probabilities[:1], labels[:1]) == {"mean_auc": 0.5}


def test_the_mean_of_seven_classes_is_over_all_of_them() -> None:
    scores, labels = probabilities_of(100, classes=7)
    found = auc_by_class(scores, labels, ham10000.DIAGNOSES)
    by_class = [found[f"auc_{name}"] for name in ham10000.DIAGNOSES]
    assert found["mean_auc"] == pytest.approx(np.mean(by_class))
    assert found["mean_auc"] == pytest.approx(metrics.roc_auc_score(labels, scores, multi_class="ovr"), abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_weighed_curves_are_scikit_learns(seed: int) -> None:
    random = np.random.default_rng(seed)
    scores, labels = probabilities_of(60, seed=seed)
    weights = random.integers(0, 3, 60).astype(float)
    is_class = labels == 1
    curve = Curve(scores[:, 1], is_class)
    expected = metrics.roc_auc_score(is_class, scores[:, 1], sample_weight=weights)
    assert curve.area(weights) == pytest.approx(expected)
    alarms, sensitivity, _ = metrics.roc_curve(
        is_class, scores[:, 1], sample_weight=weights, drop_intermediate=False
    )
    for least in classify.SENSITIVITIES:
        expected = max(1 - alarms[sensitivity >= least - 1e-9])
        assert curve.specificity_at(least, weights) == pytest.approx(expected)


def test_specificity_at_a_sensitivity_by_hand() -> None:
    """Of four of the class 3, 3 and 4 lie above 0, 1 and 4 of five others, in this order of thresholds."""
    scores = np.array([0.9, 0.8, 0.7, 0.2, 0.75, 0.1, 0.3, 0.3, 0.3])
    curve = Curve(scores, np.arange(9) < 4)
    ones = np.ones(9)
    assert curve.specificity_at(0.5, ones) == 1
    assert curve.specificity_at(0.75, ones) == 4 / 5
    assert curve.specificity_at(0.76, ones) == pytest.approx(1 / 5)
    assert curve.specificity_at(1, ones) == pytest.approx(1 / 5)


# All of a classifier's


def test_a_classifiers_figures_are_scikit_learns() -> None:
    scores, labels = probabilities_of(200)
    found = {name: figure.mean for name, figure in classify.bootstrap(scores, labels, rounds=2).items()}
    likeliest = scores.argmax(axis=1)
    assert found["accuracy"] == metrics.accuracy_score(labels, likeliest)
    assert found["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(labels, likeliest))
    exact = scores.astype(float) / scores.astype(float).sum(axis=1, keepdims=True)
    assert found["nll"] == pytest.approx(metrics.log_loss(labels, exact), rel=1e-5)
    brier = sum(metrics.brier_score_loss(labels == index, scores[:, index]) for index in range(3))
    assert found["brier"] == pytest.approx(brier)
    for index, name in enumerate(("melanoma", "nevus", "seborrheic_keratosis")):
        is_class, called = labels == index, scores[:, index] >= 0.5
        assert found[f"auc_{name}"] == pytest.approx(metrics.roc_auc_score(is_class, scores[:, index]))
        assert found[f"sensitivity_{name}"] == pytest.approx(metrics.recall_score(is_class, called))
        assert found[f"specificity_{name}"] == pytest.approx(metrics.recall_score(~is_class, ~called))
        at = [found[f"specificity_at_{percent}_{name}"] for percent in (82, 89, 95)]
        assert at == sorted(at, reverse=True)


def test_expected_calibration_error_by_hand() -> None:
    """Four say 0.7 and two are right; one says 0.9 and is right: (4 x |0.7 - 0.5| + |0.9 - 1|) / 5."""
    scores = np.array([[0.7, 0.2, 0.1]] * 4 + [[0.05, 0.9, 0.05]], np.float32)
    labels = np.array([0, 0, 1, 2, 1])
    found = classify.bootstrap(scores, labels, rounds=2)
    assert found["expected_calibration_error"].mean == pytest.approx(0.9 / 5)


def test_the_calibration_error_of_a_calibrated_model_by_hand() -> None:
    """One image of 0.7 is right in 70 of 100 draws, and off by 0.3, else by 0.7."""
    by_chance = error_by_chance(np.array([0.7]), rounds=20_000)
    assert by_chance.mean == pytest.approx(2 * 0.7 * 0.3, abs=0.01)
    assert (by_chance.low, by_chance.high) == (pytest.approx(0.3), pytest.approx(0.7))
    many, few = (error_by_chance(np.full(count, 0.7), rounds=100) for count in (4000, 40))
    assert many.mean < few.mean / 5  # by ten times as many


@given(st.integers(1, 50))
def test_the_interval_of_one_certain_figure_is_a_point(count: int) -> None:
    probabilities = np.tile(np.array([[1, 0, 0]], np.float32), (count, 1))
    found = classify.bootstrap(probabilities, np.zeros(count, np.int64), rounds=5)
    certain = dict.fromkeys(("expected_calibration_error", "calibration_error_by_chance", "brier", "nll"), 0)
    for name, value in {"accuracy": 1, **certain}.items():
        assert (found[name].mean, found[name].low, found[name].high) == (value, value, value)


# Intervals


def test_the_interval_holds_the_figure_and_narrows_with_more_images() -> None:
    widths = []
    for count in (60, 600):
        figure = classify.bootstrap(*probabilities_of(count), rounds=200)["mean_auc"]
        assert figure.low < figure.mean < figure.high
        widths.append(figure.high - figure.low)
    assert widths[1] < widths[0] / 2


def test_no_class_vanishes_from_a_resampling() -> None:
    """One melanoma of forty would be missing from a third of plain resamplings."""
    scores, labels = probabilities_of(40)
    labels = np.where((labels == 0) & (np.arange(40) > 0), 1, labels)
    found = classify.bootstrap(scores, labels, rounds=100)
    assert all(math.isfinite(edge) for figure in found.values() for edge in (figure.low, figure.high))
    drawn: list[float] = []
    bootstrap(lambda weights: {"x": drawn.append(float(weights[labels == 0].sum())) or 0.0}, 40, strata=labels)
    assert set(drawn) == {1.0}


def test_the_interval_of_a_mean_is_that_of_the_normal_distribution() -> None:
    values = np.random.default_rng(0).normal(3, 2, 400)
    figure = bootstrap_mean(list(values))
    spread = 1.96 * values.std() / math.sqrt(400)
    assert figure.mean == pytest.approx(values.mean())
    assert figure.low == pytest.approx(values.mean() - spread, abs=0.03)
    assert figure.high == pytest.approx(values.mean() + spread, abs=0.03)


def test_figures_of_one_seed_are_drawn_alike() -> None:
    """So the interval of a mean of differences is that of a paired comparison."""
    first, second = np.random.default_rng(1).normal(size=(2, 50))
    drawn: list[list[float]] = [[], []]
    for found, values in zip(drawn, (first, second), strict=True):

        def mean(weights: npt.NDArray, found: list[float] = found, values: npt.NDArray = values) -> dict:
            found.append(float(weights @ values) / 50)
            return {"mean": found[-1]}

        bootstrap(mean, 50, rounds=20)
    paired: list[float] = []
    bootstrap(
        lambda weights: {"mean": paired.append(float(weights @ (first - second)) / 50) or 0.0}, 50, rounds=20
    )
    np.testing.assert_allclose(np.subtract(*drawn), paired)
