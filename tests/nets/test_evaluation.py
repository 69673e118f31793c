"""Figures of merit: against values worked out by hand, and their bounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from dermbatch.errors import UsageError
from lesionnets.data.isic import Sample, find_labelled, find_samples, read_mask
from lesionnets.evaluation import classify, segment
from lesionnets.evaluation.overlap import dice, jaccard
from lesionnets.evaluation.ranking import auc_by_class

MASKS = arrays.arrays(np.bool_, (5, 4))


def test_overlap_of_known_masks() -> None:
    one = np.array([[True, True, False, False]])
    other = np.array([[False, True, True, True]])
    assert jaccard(one, other) == 1 / 4
    assert dice(one, other) == 2 / 5
    nothing = np.zeros((1, 4), bool)
    assert (jaccard(nothing, nothing), dice(nothing, nothing), jaccard(one, nothing)) == (1, 1, 0)


@given(MASKS, MASKS)
def test_dice_and_jaccard_say_the_same(one: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_]) -> None:
    j, d = jaccard(one, other), dice(one, other)
    assert 0 <= j <= d <= 1
    assert d == pytest.approx(2 * j / (1 + j))
    assert jaccard(other, one) == j
    assert jaccard(one, one) == 1


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


def perfect_segmenter(samples: list[Sample], size: tuple[int, int]) -> Any:
    masks = iter([read_mask(sample.mask) for sample in samples if sample.mask])

    def run(**inputs: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[np.uint8]]:
        assert inputs["IMAGE"].shape == (*size, 3)
        return {"LESION": next(masks)}

    return run


def test_a_perfect_model_gets_full_marks(isic_folder: Path) -> None:
    samples = find_samples(isic_folder / "val" / "images", isic_folder / "val" / "masks")
    figures = segment.evaluate(perfect_segmenter(samples, (96, 128)), samples)
    assert {name: (each.mean, each.low, each.high) for name, each in figures.items()} == dict.fromkeys(
        ("jaccard", "dice", "sensitivity", "specificity"), (1, 1, 1)
    )


def test_masks_may_be_finer_than_images_but_not_of_another_shape(tmp_path: Path) -> None:
    truth = np.zeros((60, 90), np.uint8)
    truth[15:45, 30:60] = 255
    cv2.imwrite(str(tmp_path / "a_segmentation.png"), truth)
    sample = Sample("a", tmp_path / "a.png", tmp_path / "a_segmentation.png")
    coarse = cv2.resize(truth, (30, 20), interpolation=cv2.INTER_AREA)
    found = segment.binary(np.asarray(coarse, np.uint8), truth.shape, sample)
    assert jaccard(found, truth > 0) > 0.95
    with pytest.raises(UsageError, match="90 x 60 pixels, its image 30 x 30"):
        segment.binary(np.zeros((30, 30), np.uint8), truth.shape, sample)
    with pytest.raises(UsageError, match="has no mask"):
        segment.score(lambda **_: {}, Sample("a", tmp_path / "a.png"))


def test_a_classifier_is_fed_the_mask_it_would_be_fed_in_service(isic_folder: Path) -> None:
    folders = [isic_folder / "val" / "images", isic_folder / "unmasked_256"]
    samples = find_labelled(folders, isic_folder / "labels.csv", masks=isic_folder / "val" / "masks", split="val")
    seen: list[int] = []

    def run(**inputs: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[np.float32]]:
        assert inputs["LESION"].shape == inputs["IMAGE"].shape[:2]
        seen.append(int(inputs["LESION"].max()))
        return {"PROBABILITIES": np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 1, 2, 1, 1][len(seen) - 1]]}

    figures = classify.evaluate(run, samples, None, rounds=50)
    assert seen == [255] * 6 + [0] * 2
    assert figures["mean_auc"].mean == 1
    assert figures["accuracy"].mean == 1
    seen.clear()
    classify.evaluate(run, samples, lambda **inputs: {"LESION": inputs["IMAGE"][:, :, 0] * 0 + 7}, rounds=5)
    assert seen == [7] * 8
    with pytest.raises(UsageError, match="no diagnosis"):
        classify.evaluate(run, [Sample("a", samples[0].image)], None)


def test_the_interval_holds_the_figure_and_narrows_with_more_images() -> None:
    random = np.random.default_rng(0)
    widths = []
    for count in (60, 600):
        labels = random.integers(0, 3, count)
        logits = random.normal(0, 1, (count, 3)) + 1.2 * np.eye(3)[labels]
        probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        figure = classify.bootstrap(probabilities.astype(np.float32), labels, rounds=200)["mean_auc"]
        assert figure.low < figure.mean < figure.high
        widths.append(figure.high - figure.low)
    assert widths[1] < widths[0] / 2


@given(st.integers(1, 50))
def test_the_interval_of_one_certain_figure_is_a_point(count: int) -> None:
    probabilities = np.tile(np.array([[1, 0, 0]], np.float32), (count, 1))
    figure = classify.bootstrap(probabilities, np.zeros(count, np.int64), rounds=5)["accuracy"]
    assert (figure.mean, figure.low, figure.high) == (1, 1, 1)
