"""The served graphs: what ONNX Runtime computes is what PyTorch computes, at any size; crops lie on the lesion."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from cutting import cut_square
from hypothesis import given, settings
from hypothesis import strategies as st
from lively import lively

from dermbatch.phantoms.phantom import phantom
from lesionnets.graphs import classify, segment
from lesionnets.graphs.crop import LEAST, MARGIN, lesion_square, paste_square
from lesionnets.graphs.sampling import area_sample, to_bytes
from lesionnets.nets.classify.mobilenet import LesionClassifier
from lesionnets.nets.segment.unet import UNet

SIZES = [(1, 40, 30), (2, 97, 131), (3, 160, 160), (1, 301, 517)]


def session_of(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    onnx.checker.check_model(model, full_check=True)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def unet() -> UNet:
    network: Any = lively(UNet(width=0.25, size=64))
    return network  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def classifier() -> LesionClassifier:
    network: Any = lively(LesionClassifier(size=64))
    network.temperature.fill_(1.7)
    return network  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def segment_model(unet: UNet) -> onnx.ModelProto:
    return segment.build(unet)


@pytest.fixture(scope="module")
def classify_model(classifier: LesionClassifier) -> onnx.ModelProto:
    return classify.build(classifier)


def test_segment_in_onnx_is_segment_in_pytorch(unet: UNet, segment_model: onnx.ModelProto) -> None:
    session = session_of(segment_model)
    graph = segment.SegmentGraph(unet)
    for count, height, width in SIZES:
        images = np.stack([phantom(seed, height=height, width=width).image for seed in range(count)])
        (lesion,) = session.run(["LESION"], {"IMAGE": images})
        with torch.inference_mode():
            expected = graph(torch.from_numpy(images)).numpy()
        assert lesion.dtype == np.uint8
        assert lesion.shape == (count, height, width)
        assert np.abs(lesion.astype(int) - expected).max() <= 2
        assert np.ptp(lesion) > 3  # a flat answer would agree with anything


def test_flips_are_the_mean_over_mirror_images(unet: UNet) -> None:
    images = torch.from_numpy(np.stack([phantom(3, height=64, width=80).image]))
    plain, flipped = segment.SegmentGraph(unet), segment.SegmentGraph(unet, flips=True)
    with torch.inference_mode():
        mirrored = [plain(images.flip(axes)).flip(axes).float() for axes in ((), (1,), (2,), (1, 2))]
        found = flipped(images).float()
    assert (found - torch.stack(mirrored).mean(dim=0)).abs().max() <= 2
    assert (found - mirrored[0]).abs().max() > 2


def test_the_temperature_flattens_what_is_served_and_keeps_the_mask(unet: UNet) -> None:
    images = torch.from_numpy(np.stack([phantom(3, height=64, width=80).image]))
    hot = copy.deepcopy(unet)
    hot.temperature.fill_(3.0)
    with torch.inference_mode():
        sharp, flat = (segment.SegmentGraph(network)(images).float() for network in (unet, hot))
    certain = (sharp - 127.5).abs() > 2
    assert ((flat - 127.5).abs() <= (sharp - 127.5).abs() + 1).all()
    assert flat.std() < 0.6 * sharp.std()
    assert ((flat > 127.5) == (sharp > 127.5))[certain].all()


def test_classify_in_onnx_is_classify_in_pytorch(
    classifier: LesionClassifier, classify_model: onnx.ModelProto
) -> None:
    session = session_of(classify_model)
    graph = classify.ClassifyGraph(classifier)
    for count, height, width in SIZES:
        drawn = [phantom(seed, height=height, width=width) for seed in range(count)]
        images = np.stack([each.image for each in drawn])
        lesions = np.stack([each.lesion for each in drawn]).astype(np.uint8) * 255
        lesions[1:2] = 0  # of a batch, one without a lesion
        found = session.run(["PROBABILITIES", "EMBEDDING", "SALIENCY"], {"IMAGE": images, "LESION": lesions})
        with torch.inference_mode():
            expected = graph(torch.from_numpy(images), torch.from_numpy(lesions))
        np.testing.assert_allclose(found[0], expected[0].numpy(), atol=1e-4)
        np.testing.assert_allclose(found[1], expected[1].numpy(), atol=1e-4)
        assert np.abs(found[2].astype(int) - expected[2].numpy()).max() <= 2
        np.testing.assert_allclose(found[0].sum(axis=1), 1, atol=1e-5)
        assert [value.shape for value in found] == [(count, 3), (count, 1280), (count, 64, 64)]


def test_visual_backprop_is_served_where_it_is_asked_for(classifier: LesionClassifier) -> None:
    assert "VISUALBACKPROP" not in {one.name for one in classify.contract(classifier).outputs}
    session = session_of(classify.build(classifier, visual_backprop=True))
    image = phantom(4, height=90, width=120).image[None]
    lesion = 255 * phantom(4, height=90, width=120).lesion.astype(np.uint8)[None]
    *_, seen = session.run(None, {"IMAGE": image, "LESION": lesion})
    graph = classify.ClassifyGraph(classifier, visual_backprop=True).eval()
    with torch.inference_mode():
        *_, ours = graph(torch.from_numpy(image), torch.from_numpy(lesion))
    assert seen.shape == (1, 64, 64)
    assert seen.max() > 100
    assert np.abs(seen.astype(int) - ours.numpy()).max() <= 3


def test_graphs_use_only_standard_operators(
    segment_model: onnx.ModelProto, classify_model: onnx.ModelProto
) -> None:
    for model in (segment_model, classify_model):
        assert [(each.domain, each.version <= 20) for each in model.opset_import] == [("", True)]
        assert not model.functions


def test_contracts_name_the_graphs_tensors(
    unet: UNet, classifier: LesionClassifier, segment_model: onnx.ModelProto, classify_model: onnx.ModelProto
) -> None:
    contracts = (segment.contract(unet), classify.contract(classifier))
    for model, contract in zip((segment_model, classify_model), contracts, strict=True):
        assert [value.name for value in model.graph.input] == [tensor.name for tensor in contract.inputs]
        assert [value.name for value in model.graph.output] == [tensor.name for tensor in contract.outputs]
        for value, tensor in zip(model.graph.output, contract.outputs, strict=True):
            fixed = [each.dim_value or -1 for each in value.type.tensor_type.shape.dim][1:]
            assert len(fixed) == len(tensor.dims)
            assert all(side in (got, -1) for side, got in zip(tensor.dims, fixed, strict=True) if got != -1)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (32, 48), (8, 64)])
def test_area_sample_of_whole_multiples_is_the_mean_of_its_points(height: int, width: int) -> None:
    image = torch.randint(
        0, 256, (2, height, width, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    found = area_sample(image, 4, 2)
    rows = [(2 * i + 1) * height // 16 for i in range(8)]
    columns = [(2 * i + 1) * width // 16 for i in range(8)]
    points = image[:, rows][:, :, columns].double()
    expected = points.reshape(2, 4, 2, 4, 2, 3).mean(dim=(2, 4)).permute(0, 3, 1, 2) / 255
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(0, 255), st.integers(1, 9), st.integers(1, 4))
def test_area_sample_keeps_a_flat_image_flat(height: int, width: int, value: int, size: int, samples: int) -> None:
    image = torch.full((1, height, width, 1), value, dtype=torch.uint8)
    found = to_bytes(area_sample(image, size, samples))
    assert found.shape == (1, 1, size, size)
    assert found.eq(value).all()


def test_area_sample_does_not_shift_the_picture() -> None:
    ramp = torch.arange(256, dtype=torch.uint8)[None, None, :, None].expand(1, 256, 256, 1)
    found = area_sample(ramp, 16, 4)[0, 0, 0] * 255
    torch.testing.assert_close(found, torch.arange(16.0) * 16 + 8, rtol=0, atol=0.51)


def test_the_square_lies_around_the_lesion_whatever_the_frame() -> None:
    mask = torch.zeros(2, 1, 100, 100)
    mask[0, :, 20:60, 50:70] = 1
    square = lesion_square(mask, 300, 600)
    # Rows 60 to 180 and columns 300 to 420 of the picture: 120 x 120 pixels.
    torch.testing.assert_close(square[0], torch.tensor([0.4, 0.6, MARGIN * 120]), rtol=0.03, atol=0.005)
    torch.testing.assert_close(square[1], torch.tensor([0.5, 0.5, 600.0]))


def test_specks_and_tiny_lesions_do_not_spoil_the_square() -> None:
    mask = torch.zeros(1, 1, 100, 100)
    mask[:, :, 48:52, 48:52] = 1
    assert lesion_square(mask, 200, 400)[0, 2].item() == pytest.approx(LEAST * 200)
    mask[:, :, 40:60, 40:60] = 1
    plain = lesion_square(mask, 200, 200)
    mask[:, :, 1, 1] = 1
    torch.testing.assert_close(lesion_square(mask, 200, 200), plain, rtol=0.06, atol=0.01)


@pytest.mark.parametrize(("height", "width"), [(200, 200), (150, 300)])
def test_a_cut_square_shows_the_square_and_pasting_puts_it_back(height: int, width: int) -> None:
    rows, columns = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    picture = torch.stack([rows, columns])[None] / 64
    square = torch.tensor([[0.5, 0.4, 90.0]])
    cut = cut_square(picture, square, height, width, 30)
    half = 45 / height
    expected = 0.5 - half + (torch.arange(30.0) + 0.5) / 30 * 2 * half - 0.5 / 64
    torch.testing.assert_close(cut[0, 0, :, 15], expected, rtol=0, atol=2e-3)
    pasted = paste_square(cut, square, height, width, 64)
    inside = (((rows + 0.5) / 64 - 0.5).abs() * height < 42) & (((columns + 0.5) / 64 - 0.4).abs() * width < 42)
    outside = (((rows + 0.5) / 64 - 0.5).abs() * height > 46) | (((columns + 0.5) / 64 - 0.4).abs() * width > 46)
    torch.testing.assert_close(pasted[0][:, inside], picture[0][:, inside], rtol=0, atol=5e-3)
    assert pasted[0][:, outside].eq(0).all()
