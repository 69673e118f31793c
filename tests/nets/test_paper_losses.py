"""Losses of the papers against plain loops over their formulas, and their properties."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from lesionnets.losses.adversarial import adversarial_loss, content_loss, discriminator_loss, generator_loss
from lesionnets.losses.balanced import balanced_pixel_loss
from lesionnets.losses.inpainting import gram, hole_variation, inpainting_terms
from lesionnets.losses.overlap import dice_loss
from lesionnets.losses.rank import dice_rank_loss, rank_loss

seeds = st.integers(0, 2**31)
quick = settings(max_examples=20, deadline=None)


def pyramid(picture: Tensor) -> list[Tensor]:
    """Features that can be followed by hand: the picture pooled twice, its square pooled once."""
    return [functional.avg_pool2d(picture, 2), functional.avg_pool2d(picture**2, 4)]


def drawn(seed: int, *shape: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    return torch.randn(*shape), (torch.rand(*shape) > torch.rand(())).float()


@quick
@given(seeds, st.integers(1, 12), st.integers(1, 6))
def test_rank_loss_against_every_pair(seed: int, hardest: int, side: int) -> None:
    logits, target = drawn(seed, 2, 1, side, side + 1)
    losses = []
    for values, truth in zip(logits.sigmoid().flatten(1).tolist(), target.flatten(1).tolist(), strict=True):
        background = sorted((p for p, t in zip(values, truth, strict=True) if not t), reverse=True)[:hardest]
        lesion = sorted(p for p, t in zip(values, truth, strict=True) if t)[:hardest]
        pairs = [max(0.0, b - p + 0.3) for b in background for p in lesion]
        losses.append(sum(pairs) / len(pairs) if pairs else 0.0)
    assert rank_loss(logits, target, hardest=hardest).item() == pytest.approx(np.mean(losses), abs=1e-6)


@quick
@given(seeds)
def test_rank_loss_is_zero_where_hard_pixels_are_apart_and_pulls_only_hard_ones(seed: int) -> None:
    logits, target = drawn(seed, 1, 1, 6, 6)
    target[0, 0, 0, :2] = torch.tensor([0.0, 1.0])
    assert rank_loss(20 * (2 * target - 1), target).item() == 0
    assert rank_loss(-20 * (2 * target - 1), target).item() == pytest.approx(1.3)
    logits.requires_grad_()
    rank_loss(logits, target, hardest=1, margin=1.0).backward()
    assert logits.grad is not None
    assert int((logits.grad != 0).sum()) == 2
    # Background is pushed down and lesion up.
    assert (logits.grad * (1 - 2 * target) >= 0).all()


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_rank_loss_of_one_kind_of_pixel_costs_nothing_and_has_a_gradient(value: float) -> None:
    logits = torch.randn(2, 1, 4, 4, requires_grad=True)
    loss = rank_loss(logits, torch.full((2, 1, 4, 4), value))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert logits.grad.eq(0).all()


def test_mb_dcnn_weighs_rank_by_a_twentieth_beside_dice() -> None:
    logits, target = drawn(1, 2, 1, 9, 9)
    expected = dice_loss(logits, target) + 0.05 * rank_loss(logits, target)
    torch.testing.assert_close(dice_rank_loss(logits, target), expected)
    with pytest.raises(ValueError, match="differ in shape"):
        rank_loss(logits, target[:1])


@quick
@given(seeds, st.integers(1, 5))
def test_balanced_pixel_loss_against_equation_one(seed: int, side: int) -> None:
    logits, target = drawn(seed, 2, 1, side, side + 2)
    total = 0.0
    for values, truth in zip(logits.flatten(1).tolist(), target.flatten(1).tolist(), strict=True):
        beta = truth.count(0.0) / len(truth)
        for value, is_lesion in zip(values, truth, strict=True):
            probability = 1 / (1 + math.exp(-value))
            total -= beta * math.log(probability) if is_lesion else (1 - beta) * math.log(1 - probability)
    assert balanced_pixel_loss(logits, target).item() == pytest.approx(total / target.numel(), rel=1e-4, abs=1e-6)


def test_balanced_pixel_loss_weighs_a_small_lesion_as_much_as_all_skin() -> None:
    target = torch.zeros(1, 1, 10, 10)
    target[..., 0, 0] = 1
    # All skin, or all lesion: equally wrong, however small the lesion is.
    skin, lesion = (balanced_pixel_loss(torch.full_like(target, value), target) for value in (-5.0, 5.0))
    torch.testing.assert_close(skin, lesion)
    sides = torch.randn(1, 5, 10, 10)
    each = [balanced_pixel_loss(sides[:, n : n + 1], target) for n in range(5)]
    torch.testing.assert_close(balanced_pixel_loss(sides, target), torch.stack(each).mean())
    with pytest.raises(ValueError, match="do not fit"):
        balanced_pixel_loss(sides, target[..., :5])


def reference_terms(painted: Tensor, clean: Tensor, valid: Tensor) -> dict[str, float]:
    """Liu et al. 2018, eq. 2 to 6, in NumPy with loops."""
    out, truth = painted.numpy().astype(np.float64), clean.numpy().astype(np.float64)
    mask = np.broadcast_to(valid.numpy(), truth.shape).astype(np.float64)
    both = mask * truth + (1 - mask) * out

    def features(picture: npt.NDArray[np.float64]) -> list[npt.NDArray[np.float64]]:
        return [values.numpy() for values in pyramid(torch.from_numpy(picture))]

    def correlations(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.asarray(np.einsum("nchw,ndhw->ncd", values, values) / values[0].size)

    wanted = features(truth)
    found = {"perceptual": 0.0, "style": 0.0, "variation": 0.0}
    for picture in (out, both):
        for got, want in zip(features(picture), wanted, strict=True):
            found["perceptual"] += np.abs(got - want).mean()
            found["style"] += np.abs(correlations(got) - correlations(want)).mean()
    count, _, height, width = truth.shape
    for n in range(count):
        hole = mask[n, 0] == 0
        for row in range(height):
            for column in range(width):
                for r, c in ((row + 1, column), (row, column + 1)):
                    if r >= height or c >= width:
                        continue
                    near = [
                        hole[max(a - 1, 0) : a + 2, max(b - 1, 0) : b + 2].any()
                        for a, b in ((row, column), (r, c))
                    ]
                    if all(near):
                        found["variation"] += np.abs(both[n, :, r, c] - both[n, :, row, column]).sum()
    found["variation"] /= truth.size
    found["valid"] = np.abs(mask * (out - truth)).mean()
    found["hole"] = np.abs((1 - mask) * (out - truth)).mean()
    return found


@settings(max_examples=10, deadline=None)
@given(seeds, st.integers(1, 2), st.integers(4, 8))
def test_inpainting_terms_against_their_equations(seed: int, count: int, side: int) -> None:
    torch.manual_seed(seed)
    painted, clean = torch.rand(2, count, 3, side, side + 2)
    valid = (torch.rand(count, 1, side, side + 2) > 0.2).float()
    terms = inpainting_terms(painted, clean, valid, pyramid)
    expected = reference_terms(painted, clean, valid)
    for name, value in expected.items():
        assert getattr(terms, name).item() == pytest.approx(value, rel=1e-3, abs=1e-6), name
    weights = {"valid": 1, "hole": 6, "perceptual": 0.05, "style": 120, "variation": 0.1}
    total = sum(weight * expected[name] for name, weight in weights.items())
    assert terms.total().item() == pytest.approx(total, rel=1e-3)


def test_a_perfect_picture_costs_its_own_variation_in_the_holes_alone() -> None:
    torch.manual_seed(0)
    clean, valid = torch.rand(1, 3, 8, 8), torch.ones(1, 1, 8, 8)
    valid[..., 3:5, 3:5] = 0
    terms = inpainting_terms(clean, clean, valid, pyramid)
    assert [x.item() for x in (terms.valid, terms.hole, terms.perceptual, terms.style)] == [0, 0, 0, 0]
    # A 2 x 2 hole grown to 4 x 4: three steps in each row and column of it.
    grown = clean[..., 2:6, 2:6]
    expected = grown.diff(dim=-1).abs().sum() + grown.diff(dim=-2).abs().sum()
    assert hole_variation(clean, valid).item() == pytest.approx(expected.item() / clean.numel(), rel=1e-5)
    assert hole_variation(clean, torch.ones_like(valid)).item() == 0


def test_holes_cost_six_times_and_shapes_are_checked() -> None:
    clean = torch.full((1, 3, 8, 8), 0.5)
    valid = torch.ones(1, 1, 8, 8)
    valid[..., :4] = 0
    terms = inpainting_terms(clean + 0.1, clean, valid, pyramid)
    assert terms.hole.item() == pytest.approx(terms.valid.item()) == pytest.approx(0.05)
    with pytest.raises(ValueError, match="shapes"):
        inpainting_terms(clean, clean, valid.expand(1, 3, 8, 8), pyramid)


def test_gram_does_not_know_where_things_are() -> None:
    torch.manual_seed(0)
    features = torch.randn(2, 3, 4, 5)
    shuffled = features.flatten(2)[..., torch.randperm(20)].reshape(2, 3, 4, 5)
    torch.testing.assert_close(gram(shuffled), gram(features))
    torch.testing.assert_close(gram(features), gram(features).transpose(1, 2))


@quick
@given(seeds, st.integers(1, 5))
def test_adversarial_losses_against_cross_entropy(seed: int, count: int) -> None:
    torch.manual_seed(seed)
    originals, generated = 3 * torch.randn(2, count, 1)
    entropy = functional.binary_cross_entropy_with_logits
    torch.testing.assert_close(adversarial_loss(generated), entropy(generated, torch.ones_like(generated)))
    expected = entropy(originals, torch.ones_like(originals)) + entropy(generated, torch.zeros_like(generated))
    torch.testing.assert_close(discriminator_loss(originals, generated), expected)


def test_adversarial_losses_at_their_ends() -> None:
    unsure = torch.zeros(4, 1)
    assert adversarial_loss(unsure).item() == pytest.approx(math.log(2))
    assert discriminator_loss(unsure, unsure).item() == pytest.approx(2 * math.log(2))
    certain = torch.full((4, 1), 1e4, dtype=torch.bfloat16)
    assert discriminator_loss(certain, -certain).item() == 0
    assert adversarial_loss(-certain).isfinite()
    assert adversarial_loss(certain).dtype == torch.float32


def test_srgan_adds_a_thousandth_of_the_adversarial_loss_to_the_content() -> None:
    torch.manual_seed(0)
    enhanced, original = torch.rand(2, 2, 3, 8, 8)
    content = (pyramid(enhanced)[-1] - pyramid(original)[-1]).square().mean()
    torch.testing.assert_close(content_loss(enhanced, original, pyramid), content)
    judged = torch.randn(2, 1)
    expected = content + 1e-3 * adversarial_loss(judged)
    torch.testing.assert_close(generator_loss(enhanced, original, judged, pyramid), expected)
    assert content_loss(original, original, pyramid).item() == 0
