"""The served graphs of enhance and purify do what their networks do, and touch nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from dermbatch.phantoms.phantom import phantom
from lesionnets.evaluation.purify import phantom_cases
from lesionnets.graphs import enhance, purify
from lesionnets.graphs.assembly import OPSET, halve_weights
from lesionnets.graphs.purify import THRESHOLD
from lesionnets.nets.enhance.doubler import Doubler
from lesionnets.nets.enhance.enhancer import Enhancer
from lesionnets.nets.enhance.espcn import Espcn
from lesionnets.nets.enhance.plain import PlainEnhancer
from lesionnets.nets.purify.purifier import Purifier
from lesionnets.recipes.enhance.enhance_espcn import enhance as enhance_by_torch
from lesionnets.recipes.purify.purify_unet import purify as purify_by_torch

Run = Callable[[np.ndarray], list[np.ndarray]]
LIMIT = math.ceil(THRESHOLD * 255)


def session(model: onnx.ModelProto) -> Run:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    ready = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda images: ready.run(None, {"IMAGE": images})


def random_espcn() -> Espcn:
    torch.manual_seed(1)
    model = Espcn(8, 1)
    torch.nn.init.normal_(model.head.weight, std=0.02)
    return model.eval()


def random_plain() -> PlainEnhancer:
    torch.manual_seed(4)
    return PlainEnhancer(8, 2).eval()


def random_doubler() -> Doubler:
    torch.manual_seed(6)
    model = Doubler(8, 1)
    torch.nn.init.normal_(model.head.weight, std=0.05)
    return model.eval()


def random_purifier() -> Purifier:
    """Finds something here and there, and paints something else over it."""
    torch.manual_seed(2)
    model = Purifier((8, 8, 8))
    torch.nn.init.normal_(model.head.weight, std=0.6)
    with torch.no_grad():
        model.head.weight[:4] *= 30  # decided, or rounding decides which side of the threshold a pixel falls
        model.head.bias[:4] = -3
        model.head.bias[4:] = 0.2
    return model.eval()


@pytest.fixture(scope="module")
def enhance_model() -> onnx.ModelProto:
    return enhance.build(random_espcn())


@pytest.fixture(scope="module")
def purify_model() -> onnx.ModelProto:
    return purify.build(random_purifier())


@pytest.fixture(scope="module")
def enhancer(enhance_model: onnx.ModelProto) -> Run:
    return session(enhance_model)


@pytest.fixture(scope="module")
def purifier(purify_model: onnx.ModelProto) -> Run:
    return session(purify_model)


@pytest.fixture(scope="module")
def plain_enhancer() -> Run:
    return session(enhance.build(random_plain()))


@pytest.fixture(scope="module")
def doubler() -> Run:
    return session(enhance.build(random_doubler()))


@pytest.mark.parametrize("size", [(1, 1), (7, 30), (64, 48)])
def test_enhance_graph_agrees_with_the_network(enhancer: Run, plain_enhancer: Run, size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    (plain,) = plain_enhancer(np.stack([image, image[::-1]]))
    assert plain.dtype == np.uint8
    for out, seen in zip(plain, (image, image[::-1]), strict=True):
        assert np.abs(out.astype(int) - enhance_by_torch(random_plain(), seen)).max() <= 1
    (out,) = enhancer(image[None])
    assert out.shape == (1, 4 * size[0], 4 * size[1], 3)
    assert out.dtype == np.uint8
    # A value that lies on the edge between two bytes may be rounded either way.
    assert np.abs(out[0].astype(int) - enhance_by_torch(random_espcn(), image)).max() <= 1


@pytest.mark.parametrize("network", [random_espcn(), random_plain()])
def test_tiles_with_the_stated_overlap_are_seamless(enhancer: Run, plain_enhancer: Run, network: Enhancer) -> None:
    margin = network.radius
    run = plain_enhancer if isinstance(network, PlainEnhancer) else enhancer
    assert int(enhance.contract(network).parameters["overlap"]) == 2 * margin
    image = phantom(3, height=60, width=100).clean
    (whole,) = run(image[None])
    (left,), (right,) = run(image[None, :, : 50 + margin]), run(image[None, :, 50 - margin :])
    joined = np.concatenate([left[:, :, :200], right[:, :, 4 * margin :]], axis=2)
    assert np.abs(joined.astype(int) - whole).max() <= 1


@pytest.mark.parametrize("size", [(1, 1), (7, 30), (64, 48), (33, 51)])
def test_a_doublers_graph_agrees_with_the_network_at_even_and_odd_sizes(
    doubler: Run, size: tuple[int, int]
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    even = np.pad(image, ((0, size[0] % 2), (0, size[1] % 2), (0, 0)), mode="edge")
    (out,) = doubler(np.stack([image, image[::-1]]))
    assert out.shape == (2, 2 * size[0], 2 * size[1], 3)
    expected = enhance_by_torch(random_doubler(), even)[: 2 * size[0], : 2 * size[1]]
    assert np.abs(out[0].astype(int) - expected).max() <= 1


def test_tiles_of_a_doubler_that_begin_at_its_grid_are_seamless(doubler: Run) -> None:
    network = random_doubler()
    margin, stated = network.radius, enhance.contract(network).parameters
    assert stated == {"scale": "2", "tile": "320", "overlap": str(2 * margin), "grid": "2"}
    image = phantom(3, height=60, width=101).clean
    (whole,) = doubler(image[None])
    for cut in (50, 51):
        start = (cut - margin) - (cut - margin) % 2
        (left,), (right,) = doubler(image[None, :, : cut + margin]), doubler(image[None, :, start:])
        joined = np.concatenate([left[:, :, : 2 * cut], right[:, :, 2 * (cut - start) :]], axis=2)
        assert np.abs(joined.astype(int) - whole).max() <= 1


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 2), st.integers(0, 2**32 - 1))
def test_purify_changes_nothing_outside_its_map(
    purifier: Run, height: int, width: int, batch: int, seed: int
) -> None:
    images = np.random.default_rng(seed).integers(0, 256, (batch, height, width, 3), dtype=np.uint8)
    purified, occlusion = purifier(images)
    assert purified.shape == images.shape
    assert occlusion.shape == images.shape[:3]
    assert purified.dtype == occlusion.dtype == np.uint8
    kept = occlusion < LIMIT
    assert np.array_equal(purified[kept], images[kept])
    changed = (purified != images).any(axis=3)
    # What the map names was really replaced: the fill differs clearly in green.
    assert changed[~kept].all()


def test_purify_both_keeps_and_replaces(purifier: Run) -> None:
    purified, _ = purifier(phantom(8, height=120, width=160).image[None])
    changed = (purified[0] != phantom(8, height=120, width=160).image).any(axis=2).mean()
    assert 0.02 < changed < 0.98


def test_purify_graph_agrees_with_the_recipe_at_native_sizes(purifier: Run) -> None:
    for case in phantom_cases(1, height=300, width=400) + phantom_cases(1, height=767, width=1022):
        purified, _ = purifier(case.covered[None])
        ours = purify_by_torch(random_purifier(), case.covered)
        # Two resizing libraries round differently; pixels at the threshold may fall on either side.
        apart = np.abs(purified[0].astype(int) - ours).max(axis=2)
        assert (apart > 2).mean() < 0.02


def test_where_nothing_is_found_the_image_passes_through(purify_model: onnx.ModelProto) -> None:
    blind = onnx.ModelProto()
    blind.CopyFrom(purify_model)
    (bias,) = (tensor for tensor in blind.graph.initializer if tensor.name.endswith("head.bias"))
    bias.CopyFrom(numpy_helper.from_array(np.full(16, -60, np.float32), bias.name))
    run = session(blind)
    image = phantom(1, height=100, width=130).image
    purified, occlusion = run(image[None])
    assert np.array_equal(purified[0], image)
    assert occlusion.max() == 0


def test_images_of_a_batch_do_not_mix(purifier: Run, enhancer: Run) -> None:
    images = np.stack([phantom(seed, height=64, width=96).image for seed in (1, 2)])
    for run in (purifier, enhancer):
        together = run(images)
        for index in range(2):
            alone = run(images[index : index + 1])
            for one, other in zip(alone, together, strict=True):
                assert np.abs(one[0].astype(int) - other[index]).max() <= 1


def test_graphs_use_only_what_all_runtimes_have(
    enhance_model: onnx.ModelProto, purify_model: onnx.ModelProto
) -> None:
    for model in (enhance_model, purify_model):
        assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", OPSET)]
        assert {node.domain for node in model.graph.node} == {""}


def test_halved_weights_change_next_to_nothing(enhance_model: onnx.ModelProto, enhancer: Run) -> None:
    halved = halve_weights(enhance_model, least=64)
    assert halved.ByteSize() < 0.8 * enhance_model.ByteSize()
    image = phantom(2, height=40, width=50).clean[None]
    assert np.abs(enhancer(image)[0].astype(int) - session(halved)(image)[0]).max() <= 1
