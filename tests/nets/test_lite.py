"""EfficientNet-Lite, what is built on it, the square that is cut by matrices, and what training sees."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from costs import count_parameters
from cutting import cut_square
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lesionnets.data import looks, overlays
from lesionnets.data.batches import in_memory
from lesionnets.data.batches.in_memory import Album
from lesionnets.data.batches.looked_at import LookedAt, Looks, plain_views
from lesionnets.data.batches.soft_pairs import SoftPairs, softened
from lesionnets.data.sources.folds import COPIES, all_samples, fold, source_of
from lesionnets.data.sources.isic import Sample
from lesionnets.graphs.classify import ClassifyGraph
from lesionnets.graphs.crop import lesion_square, reduce_square
from lesionnets.nets.classify.lite import LiteClassifier
from lesionnets.nets.efficient_lite import EfficientLite, load_imagenet
from lesionnets.nets.segment.unet_lite import UNetLite


@pytest.fixture(scope="module")
def album() -> Album:
    images = torch.randint(0, 256, (6, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    masks = torch.zeros(6, 1, 64, 64, dtype=torch.uint8)
    masks[:, :, 20:36, 8:24] = 255
    masks[5] = 0
    labels, sources = torch.tensor([0, 1, 1, 1, 2, 1]), torch.tensor([0, 0, 0, 0, 1, 1])
    return Album(images, masks, in_memory.squares_of(masks), labels, sources)


@pytest.mark.parametrize(("version", "published"), [(0, 4_652_008), (1, 5_416_680), (2, 6_092_072)])
def test_the_encoder_has_the_published_size(version: int, published: int) -> None:
    # Batch norm's two values a channel become one bias; the classifier of 1,000 classes is left out.
    encoder = EfficientLite(version)
    channels = sum(layer.out_channels for layer in encoder.modules() if isinstance(layer, torch.nn.Conv2d))
    assert count_parameters(encoder) == published - channels - 1_281_000


def test_imagenets_weights_fit_and_sides_are_halved_five_times() -> None:
    encoder = EfficientLite(0).eval()
    load_imagenet(encoder, 0)
    with torch.inference_mode():
        levels = encoder.levels_of(torch.rand(1, 3, 64, 96))
        features = encoder(torch.rand(1, 3, 64, 96))
    assert [level.shape[2:] for level in levels] == [(32, 48), (16, 24), (8, 12), (4, 6), (2, 3)]
    assert tuple(level.shape[1] for level in levels) == encoder.levels
    assert features.shape == (1, 1280, 2, 3)
    assert features.amax() > 0.5  # weights that were loaded wrongly give next to nothing


def test_frozen_layers_are_not_trained() -> None:
    encoder = EfficientLite(0)
    rest = encoder.freeze(3)
    assert not any(
        value.requires_grad for part in (encoder.stem, *encoder.blocks[:3]) for value in part.parameters()
    )
    assert len(rest) == sum(value.requires_grad for value in encoder.parameters())


def test_class_maps_of_the_lite_classifier_sum_to_its_logits() -> None:
    torch.manual_seed(1)
    model = LiteClassifier(size=64).eval()
    with torch.inference_mode():
        logits, embedding, maps = model(torch.rand(2, 3, 64, 64), (torch.rand(2, 1, 64, 64) > 0.7).float())
    torch.testing.assert_close(maps.sum(dim=(2, 3)) + model.head.bias, logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(embedding.norm(dim=1), torch.ones(2))
    assert len(model.stages) == 5


def test_the_bias_of_the_lite_segmenter_moves_what_is_served_alone() -> None:
    torch.manual_seed(1)
    model = UNetLite(width=0.25, size=64).eval()
    image = torch.rand(1, 3, 50, 70)
    with torch.inference_mode():
        before = model.logits(image)
        model.bias.fill_(0.5)
        assert before.shape == (1, 1, 50, 70)
        torch.testing.assert_close(model.logits(image), before + 0.5)
        torch.testing.assert_close(model(image), before)


def test_a_square_cut_by_matrices_is_the_square_that_is_sampled() -> None:
    rows, columns = torch.meshgrid(torch.linspace(0, 1, 96), torch.linspace(0, 1, 96), indexing="ij")
    plane = torch.stack([rows, columns, (6 * rows).sin() * columns])[None]
    planes = torch.cat([plane, 1 - plane])
    square = torch.tensor([[0.4, 0.6, 60.0], [0.6, 0.4, 40.0]])
    sampled = cut_square(planes, square, 120, 160, 32)
    torch.testing.assert_close(reduce_square(planes, square, 120, 160, 32), sampled, atol=0.01, rtol=0)


def test_the_graph_shows_each_square_as_large_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    network = LiteClassifier(size=64).eval()
    shown: list[tuple[int, ...]] = []
    forward = network.forward

    def watched(image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        shown.append((*image.shape[2:], *mask.shape[2:]))
        return forward(image, mask)

    monkeypatch.setattr(network, "forward", watched)
    with torch.inference_mode():
        ClassifyGraph(network)(*(torch.zeros(1, 40, 50, *after, dtype=torch.uint8) for after in ((3,), ())))
    assert shown == [(32,) * 4, (64,) * 4]
    assert [square.pixels(224) for square in network.squares] == [160, 224]


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 200),
    st.integers(1, 200),
    st.integers(1, 60),
    st.sampled_from([8, 32]),
    st.tuples(*[st.floats(0, 1)] * 2, st.floats(0.01, 1)),
)
def test_windows_hold_all_pixels_that_count(
    height: int, width: int, length: int, size: int, where: tuple[float, float, float]
) -> None:
    """Shares of one block's window are those over the whole axis, as products with whole pictures have them."""
    plane = torch.rand(1, 2, length, length, generator=torch.Generator().manual_seed(length))
    square = torch.tensor([[where[0], where[1], where[2] * max(height, width)]])
    found = reduce_square(plane, square, height, width, size)
    rows = _shares(square[:, 0:1], square[:, 2:3] / height, length, size)
    columns = _shares(square[:, 1:2], square[:, 2:3] / width, length, size)
    torch.testing.assert_close(found, rows[:, None] @ plane @ columns[:, None].transpose(2, 3), atol=1e-4, rtol=0)


def _shares(centre: Tensor, side: Tensor, length: int, size: int) -> Tensor:
    places = ((centre + ((torch.arange(size) + 0.5) / size - 0.5) * side) * length - 0.5).clamp(0, length - 1)
    distance = (places[:, :, None] - torch.arange(length)).abs()
    shares = (1 - distance / (side * length / size).clamp(min=1)[:, :, None]).clamp(min=0)
    return shares / shares.sum(dim=2, keepdim=True)


def test_a_square_inside_the_picture_stays_there() -> None:
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., :8, :8] = 1
    row, column, side = lesion_square(mask, 300, 400, least=1.0, inside=True)[0]
    assert (float(row), float(side)) == (0.5, 300.0)
    assert float(column) == pytest.approx(0.375)  # half of 300 pixels of 400


@pytest.mark.parametrize(
    ("name", "source"), [("ISIC_0000000", 0), ("ISIC_0001152", 0), ("ISIC_0001153", 1), ("ISIC_0014001", 4)]
)
def test_sources_go_by_numbers(name: str, source: int) -> None:
    assert source_of(name) == source


def test_a_fold_leaves_one_source_out() -> None:
    samples = [Sample(f"ISIC_{number:07}", Path("x.jpg")) for number in (1, 2000, 12000, 13500, 15000, 15001)]
    outside, inside = fold(samples, 4)
    assert [sample.image_id for sample in inside] == ["ISIC_0015000", "ISIC_0015001"]
    assert len(outside) == 4


def test_copies_of_test_images_are_not_trained_on(isic_folder: Path) -> None:
    found = all_samples(isic_folder, "train")
    assert found
    assert not COPIES & {sample.image_id for sample in found}
    assert any(sample.mask for sample in found)
    assert any(sample.diagnosis for sample in found)


def test_diagnoses_of_a_source_become_alike(album: Album) -> None:
    chances = in_memory.balanced(album.labels, album.sources, 1.0)
    assert float(chances[0]) == pytest.approx(float(chances[1:4].sum()))
    assert (in_memory.balanced(album.labels, album.sources, 0.0) == 1).all()


def test_views_are_bytes_worth_of_light_whatever_is_varied(album: Album) -> None:
    torch.manual_seed(0)
    for vary in (Looks(), Looks(light=False, layers=False, scales=False), Looks(mixup=True)):
        for images, masks, labels in LookedAt(album, 32, 3, vary):
            assert images.shape == (3, 3, 32, 32)
            assert masks.shape == (3, 1, 32, 32)
            assert 0 <= float(images.min()) <= float(images.max()) <= 1
            torch.testing.assert_close(labels.sum(dim=1), torch.ones(3))


def test_the_plain_views_are_lesion_and_picture(album: Album) -> None:
    near, far = (plain_views(album, 32, share)[1].mean(dim=(1, 2, 3)) for share in (0.0, 1.0))
    assert (near[:5] > 3 * far[:5]).all()
    assert float(far[0]) == pytest.approx(1 / 16, abs=0.01)
    assert float(near[5]) == 0  # without a mask both are the picture


def test_what_goes_badly_comes_more_often_and_is_remembered(album: Album) -> None:
    pairs = SoftPairs(album.of(torch.arange(5)), 32, 2)
    for _ in range(30):
        pairs.learn(torch.tensor([0]), torch.tensor([9.0]))
    for images, masks, _ in pairs:
        assert images.shape[2:] == masks.shape[2:] == (32, 32)
    assert float(pairs.draws.chances[0]) == 1.5
    other = SoftPairs(album.of(torch.arange(5)), 32, 2)
    other.load_state_dict(pairs.state_dict())
    assert torch.equal(other.losses, pairs.losses)


def test_soft_edges_keep_the_middle_of_the_edge() -> None:
    mask = torch.zeros(1, 1, 240, 240)
    mask[..., :120] = 1
    soft: Tensor = softened(mask)[0, 0, 120]
    assert float(soft[60]) == 1
    assert float(soft[180]) == 0
    assert float(soft[119] + soft[120]) == pytest.approx(1, abs=1e-4)
    assert 0.3 < float(soft[120]) < 0.5


def test_layers_cover_a_part_of_the_picture_alone() -> None:
    drawn = overlays.layers(14, 48, np.random.default_rng(0))
    assert drawn.shape == (14, 48, 48, 4)
    covered = (drawn[..., 3] > 128).mean(axis=(1, 2))
    assert covered.max() < 0.8
    clear = torch.zeros(2, 3, 48, 48)
    layer = torch.from_numpy(drawn).permute(0, 3, 1, 2)
    assert torch.equal(looks.overlaid(clear, layer, share=0.0), clear)
