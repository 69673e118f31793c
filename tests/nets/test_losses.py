"""Losses against values worked out by hand, and their properties."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from lesionnets.losses.balanced import balanced_cross_entropy, class_weights
from lesionnets.losses.overlap import bce_dice_loss, dice_loss


def test_dice_loss_against_the_formula() -> None:
    logits = torch.tensor([[[[0.0, 2.0], [-1.0, 3.0]]]])
    target = torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]])
    p = 1 / (1 + np.exp(-logits.numpy()))
    expected = 1 - (2 * (p * target.numpy()).sum() + 1) / (p.sum() + target.numpy().sum() + 1)
    assert dice_loss(logits, target).item() == pytest.approx(float(expected), rel=1e-6)


def test_bce_and_dice_add_up() -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(3, 1, 5, 7), (torch.rand(3, 1, 5, 7) > 0.5).float()
    bce = functional.binary_cross_entropy_with_logits(logits, target)
    expected = bce + 0.5 * dice_loss(logits, target)
    torch.testing.assert_close(bce_dice_loss(logits, target, dice_weight=0.5), expected)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 3), st.integers(1, 9), st.integers(1, 9))
def test_dice_loss_is_a_share_and_better_predictions_cost_less(
    seed: int, count: int, rows: int, columns: int
) -> None:
    torch.manual_seed(seed)
    logits = torch.randn(count, 1, rows, columns)
    target = (torch.rand(count, 1, rows, columns) > 0.5).float()
    loss = dice_loss(logits, target).item()
    assert 0 <= loss <= 1
    better = logits + 2 * (2 * target - 1)
    assert dice_loss(better, target).item() <= loss + 1e-6


def test_losses_are_float32_and_finite_for_bfloat16_extremes() -> None:
    logits = torch.tensor([[[[1e4, -1e4]]]], dtype=torch.bfloat16)
    for target in (torch.zeros(1, 1, 1, 2), torch.ones(1, 1, 1, 2)):
        loss = bce_dice_loss(logits, target)
        assert loss.dtype == torch.float32
        assert loss.isfinite()


def test_losses_refuse_shapes_that_differ() -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        bce_dice_loss(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 3))
    with pytest.raises(ValueError, match="2 weights"):
        balanced_cross_entropy(torch.zeros(4, 3), torch.zeros(4, dtype=torch.long), torch.ones(2))


def test_class_weights_are_inverse_to_frequency_and_one_on_average() -> None:
    weights = class_weights([0, 0, 0, 1], 3)
    assert weights.tolist() == pytest.approx([4 / 6, 2.0, 0.0])
    assert (3 * weights[0] + weights[1]).item() / 4 == pytest.approx(1)


def test_balanced_cross_entropy_weighs_every_class_alike() -> None:
    labels = torch.tensor([0, 0, 0, 1])
    weights = class_weights(labels.tolist(), 2)
    # Uniform predictions cost log 2 whatever the weights; a network that knows only class 0 pays half for class 1.
    assert balanced_cross_entropy(torch.zeros(4, 2), labels, weights).item() == pytest.approx(math.log(2))
    knows_zero = torch.tensor([[0.0, 0.0]] * 4)
    knows_zero[:3, 0] = 50.0
    assert balanced_cross_entropy(knows_zero, labels, weights).item() == pytest.approx(math.log(2) / 2)


def test_smoothing_makes_certainty_cost() -> None:
    logits, labels = torch.tensor([[30.0, 0.0, 0.0]]), torch.tensor([0])
    plain = balanced_cross_entropy(logits, labels, torch.ones(3))
    smoothed = balanced_cross_entropy(logits, labels, torch.ones(3), smoothing=0.1)
    assert plain.item() < 1e-6
    assert smoothed.item() == pytest.approx(30 * 0.1 * 2 / 3, rel=1e-4)
