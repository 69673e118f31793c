"""The super-resolution network and the purifier: what they promise before and after training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from costs import count_parameters
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn.functional import conv2d

from dermbatch.phantoms.phantom import phantom
from lesionnets.data.batches.patches import to_tensor
from lesionnets.nets.enhance.doubler import Doubler
from lesionnets.nets.enhance.enhancer import Enhancer
from lesionnets.nets.enhance.espcn import Espcn, bicubic_phases
from lesionnets.nets.enhance.plain import Branched, PlainEnhancer, interpolation
from lesionnets.nets.enhance.srgan import SrganGenerator
from lesionnets.nets.purify.partial_purifier import PartialPurifier, grown
from lesionnets.nets.purify.purifier import FoldedUNet, Purifier, clean_share, spread


def shaken(model: torch.nn.Module) -> torch.nn.Module:
    """The network with every weight drawn at random: its head starts at zero, which would hide the rest."""
    torch.manual_seed(3)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model


def test_untrained_super_resolution_is_bicubic_interpolation() -> None:
    image = phantom(5, height=60, width=80).clean
    with torch.inference_mode():
        out = Espcn()(torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255)
    ours = (out[0].clamp(0, 1) * 255).permute(1, 2, 0).numpy()
    pillow = np.asarray(Image.fromarray(image).resize((320, 240), Image.Resampling.BICUBIC), np.float32)
    # Pillow rounds after each axis and treats the border otherwise.
    assert np.abs(ours - pillow)[8:-8, 8:-8].max() < 1.5


def test_bicubic_kernels_keep_a_level_and_a_slope() -> None:
    kernels = bicubic_phases().double()
    torch.testing.assert_close(kernels.sum(dim=(1, 2, 3)), torch.ones(16, dtype=torch.float64))
    ramp = torch.arange(5, dtype=torch.float64).expand(5, 5)
    found = (kernels[:, 0] * ramp).sum(dim=(1, 2)).reshape(4, 4)
    expected = torch.tensor([-0.375, -0.125, 0.125, 0.375], dtype=torch.float64) + 2
    torch.testing.assert_close(found, expected.expand(4, 4), rtol=0, atol=1e-6)


@pytest.mark.parametrize("model", [Espcn(4, 1), Espcn(8, 3), SrganGenerator(0.0625, 2), PlainEnhancer(8, 3)])
def test_a_value_depends_on_no_more_than_the_stated_radius(model: Enhancer) -> None:
    shaken(model).eval()
    x = torch.rand(1, 3, 41, 41, requires_grad=True)
    model(x)[0, :, 80:84, 80:84].sum().backward()
    assert x.grad is not None
    rows, columns = x.grad.abs().sum(dim=(0, 1)).nonzero().unbind(dim=1)
    assert (rows - 20).abs().max() == (columns - 20).abs().max() == model.radius


def test_an_untrained_doubler_is_bicubic_interpolation() -> None:
    image = phantom(5, height=60, width=80).clean
    with torch.inference_mode():
        out = Doubler()(to_tensor(image[None]))
    ours = (out[0].clamp(0, 1) * 255).permute(1, 2, 0).numpy()
    pillow = np.asarray(Image.fromarray(image).resize((160, 120), Image.Resampling.BICUBIC), np.float32)
    assert np.abs(ours - pillow)[6:-6, 6:-6].max() < 1.5


@pytest.mark.parametrize("blocks", [1, 2])
def test_a_doublers_values_depend_on_no_more_than_the_stated_radius(blocks: int) -> None:
    model = shaken(Doubler(8, blocks)).eval()
    reached = 0
    for place in (30, 31):
        x = torch.rand(1, 3, 60, 60, requires_grad=True)
        model(x)[0, :, 2 * place : 2 * place + 2, 2 * place : 2 * place + 2].sum().backward()
        assert x.grad is not None
        rows, columns = x.grad.abs().sum(dim=(0, 1)).nonzero().unbind(dim=1)
        assert (rows - place).abs().max() == (columns - place).abs().max()
        reached = max(reached, int((rows - place).abs().max()))
    assert reached == model.radius


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 3))
def test_super_resolution_takes_any_size(height: int, width: int, batch: int) -> None:
    with torch.inference_mode():
        assert Espcn(4, 1)(torch.rand(batch, 3, height, width)).shape == (batch, 3, 4 * height, 4 * width)


def test_super_resolution_is_cheap_enough_for_a_processor() -> None:
    model = Espcn(channels=32, blocks=4)
    macs = sum(p.numel() for name, p in model.named_parameters() if name.endswith("weight"))
    assert macs <= 90_000, "multiplications a low-resolution pixel"


def test_a_plain_network_is_served_by_one_convolution_a_layer() -> None:
    model = shaken(PlainEnhancer(8, 2)).eval()
    served = model.merged()
    assert not any(isinstance(part, Branched) for part in served.modules())
    assert sum(kernel.numel() for kernel in PlainEnhancer().merged().parameters()) < 13_000
    x = torch.rand(2, 3, 13, 9)
    with torch.inference_mode():
        torch.testing.assert_close(served.sub_pixels(x), model.sub_pixels(x), atol=1e-4, rtol=1e-4)


def test_an_untrained_plain_network_is_nearly_bicubic_interpolation() -> None:
    torch.manual_seed(1)
    x = to_tensor(phantom(3, height=40, width=52).clean[None])
    with torch.inference_mode():
        error = (PlainEnhancer()(x) - Espcn(4, 1)(x)).abs()
    assert float(error.mean()) < 1 / 255


def test_the_filters_of_interpolation_are_exact_where_none_is_left_out() -> None:
    filters, weights = interpolation((16, 16, 16))
    x = torch.rand(1, 3, 9, 8)
    values = conv2d(conv2d(x, filters), weights).reshape(3, 4, 4, 5, 4).permute(0, 3, 1, 4, 2).reshape(3, 20, 16)
    torch.testing.assert_close(values, Espcn(4, 1)(x)[0, :, 8:-8, 8:-8], atol=1e-5, rtol=0)


@pytest.mark.parametrize("model", [Purifier(), PartialPurifier(0.125, (8, 8))])
def test_a_purifier_that_finds_nothing_hands_the_picture_through(model: FoldedUNet) -> None:
    x = torch.rand(2, 3, 32, 48)
    torch.nn.init.constant_(model.head.bias, -30)  # type: ignore[arg-type]
    with torch.inference_mode():
        logits, picture = model.eval()(x)
    assert logits.shape == (2, 1, 32, 48)
    # The first purifier's picture is added to by what is painted, here by its bias.
    torch.testing.assert_close(picture + (30 if isinstance(model, Purifier) else 0), x, atol=1e-4, rtol=0)


def test_what_is_found_has_no_influence_on_what_is_painted() -> None:
    image = torch.rand(1, 3, 64, 64)
    hole = torch.zeros(1, 1, 64, 64)
    hole[..., 20:40, 30:33] = 1
    other = torch.where(hole > 0, 0.0, image)
    for one, changed in ((image, other), (torch.full_like(image, 0.6), torch.where(hole > 0, 0.0, 0.6))):
        a, b = spread(one, 1 - hole, 4), spread(changed.expand(1, 3, 64, 64), 1 - hole, 4)
        torch.testing.assert_close(a, b)
        torch.testing.assert_close(torch.where(hole > 0, one, a), one)
    torch.testing.assert_close(a, torch.full_like(image, 0.6))
    torch.manual_seed(0)
    partial = PartialPurifier(0.125, (8, 8)).eval()
    with torch.inference_mode():
        torch.testing.assert_close(
            partial.painter(image, 1 - grown(hole)), partial.painter(other, 1 - grown(hole))
        )


def test_spreading_follows_a_slope_across_a_hole_and_fills_where_nothing_is_valid() -> None:
    ramp = torch.linspace(0, 1, 64).expand(1, 3, 64, 64)
    valid = torch.ones(1, 1, 64, 64)
    valid[..., 30:36] = 0
    assert (spread(ramp, valid, 4) - ramp).abs().max() < 0.04
    assert spread(ramp, torch.zeros_like(valid), 4).abs().max() == 0
    assert torch.isfinite(spread(ramp, torch.full_like(valid, 1e-6), 4)).all()


def test_a_pixel_is_no_cleaner_than_its_neighbours() -> None:
    logits = torch.full((1, 1, 7, 7), -12.0)
    logits[..., 3, 3] = 2
    share = clean_share(logits)[0, 0]
    assert (share[2:5, 2:5] < 0.01).all()
    share[2:5, 2:5] = 1
    assert (share > 0.99).all()


@pytest.mark.parametrize("widths", [(4, 6), (8, 8, 8, 8)])
def test_purifier_learns_in_every_parameter(widths: tuple[int, ...]) -> None:
    model = shaken(Purifier(widths)).train()
    logits, picture = model(torch.rand(2, 3, 4 * model.stride, 4 * model.stride))
    assert logits.shape[2:] == picture.shape[2:] == (4 * model.stride, 4 * model.stride)
    (logits.square().sum() + picture.square().sum()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_purifier_is_small() -> None:
    assert count_parameters(Purifier()) < 600_000
