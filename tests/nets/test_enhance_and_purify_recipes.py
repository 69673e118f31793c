"""The recipes of enhance and purify, their training material and their figures."""

from __future__ import annotations

import math
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

from dermbatch.errors import UsageError
from dermbatch.phantoms import draw_hairs, phantom
from lesionnets import checkpoint
from lesionnets.data.isic import Sample
from lesionnets.data.lesion_crops import lesion_box, load_lesion_crops
from lesionnets.data.occluded import OccludedPairs, draw_strokes, phantom_backgrounds
from lesionnets.data.prefetch import prefetched
from lesionnets.evaluation import enhance as enhancing
from lesionnets.evaluation import purify as purifying
from lesionnets.evaluation.intervals import bootstrap_mean
from lesionnets.occlusions import find_occlusions, remove_occlusions
from lesionnets.recipes.enhance_espcn import PatchLoader, degrade
from lesionnets.training import RecipeOptions


@pytest.mark.parametrize(("recipe", "figure"), [("enhance_espcn", "psnr_gain"), ("purify_unet", "score")])
def test_smoke_training_writes_a_checkpoint_of_its_recipe(
    recipe: str, figure: str, isic_folder: Path, tmp_path: Path
) -> None:
    options = RecipeOptions(out=tmp_path, data=isic_folder, smoke=True)
    best = import_module(f"lesionnets.recipes.{recipe}").train(options)
    trained = checkpoint.load(best, recipe=recipe)
    trained.build()
    assert math.isfinite(trained.figures[figure])


def test_a_lesions_box_is_widened_within_the_image_and_divisible() -> None:
    mask = np.zeros((50, 60), np.uint8)
    mask[2:13, 30:50] = 255
    rows, columns = lesion_box(mask, margin=0.2)
    assert (rows.start, columns.start) == (0, 26)
    assert (rows.stop, columns.stop) == (16, 54)  # 17 - 17 % 4 and 54 - 28 % 4
    assert lesion_box(np.zeros((9, 10), np.uint8)) == (slice(0, 8), slice(0, 8))


def test_crops_need_masks(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no image with a mask"):
        load_lesion_crops([Sample("a", tmp_path / "a.jpg")])


def test_patches_are_pairs_at_a_quarter(isic_folder: Path) -> None:
    crops = [phantom(seed, height=96, width=128).clean for seed in range(2)]
    torch.manual_seed(0)
    np.random.seed(0)
    small, truth = next(iter(PatchLoader(crops, patch=12, steps=1)))
    assert small.shape[2:] == (12, 12)
    assert truth.shape[2:] == (48, 48)
    reduced = torch.nn.functional.avg_pool2d(truth, 4)
    assert (reduced - small).abs().mean() < 0.02, "the pair shows the same patch"


def test_degrading_keeps_the_picture_and_repeats_with_its_generator() -> None:
    truth = phantom(4, height=64, width=64).clean
    plain = enhancing.reduce(truth).astype(int)
    for seed in range(12):
        small = degrade(truth, np.random.default_rng(seed))
        assert np.abs(small - plain).mean() < 12
        assert np.array_equal(small, degrade(truth, np.random.default_rng(seed)))


def test_psnr_of_a_known_error() -> None:
    one = np.full((4, 4, 3), 100, np.uint8)
    assert enhancing.psnr(one, one) == math.inf
    assert enhancing.psnr(one, one + 10) == pytest.approx(20 * math.log10(25.5))


def test_bicubic_has_no_gain_over_itself_and_the_truth_a_large_one() -> None:
    images = [phantom(seed, height=66, width=81).clean for seed in range(3)]
    assert enhancing.measure(enhancing.bicubic, images).gain.mean == 0
    answers = iter([image[:64, :80] ^ 1 for image in images])
    assert enhancing.measure(lambda _: next(answers), images, how="area").gain.low > 5


def test_purify_figures_of_perfect_and_of_no_purification() -> None:
    cases = purifying.phantom_cases(3, height=96, width=128)
    truth = {case.covered.tobytes(): case.clean for case in cases}
    none = purifying.measure(lambda image: image, cases)
    assert none.remaining.mean == 1
    assert none.outside.mean == none.outside_share.mean == 0
    perfect = purifying.measure(lambda image: truth[image.tobytes()], cases)
    assert perfect.after.mean == perfect.remaining.mean == perfect.outside.mean == 0
    worse = purifying.measure(lambda image: np.where(image > 127, image - 2, image + 2).astype(np.uint8), cases)
    assert worse.outside.mean == pytest.approx(2, abs=0.01)
    assert worse.outside_share.mean == 1


def test_hair_cases_differ_from_their_clean_image_only_where_they_say() -> None:
    (case,) = purifying.hair_cases([phantom(1, height=96, width=128).clean], seed=4)
    changed = (case.clean != case.covered).any(axis=2)
    assert changed.any()
    assert not changed[~case.mask].any()


def test_bootstrap_interval_holds_the_mean_and_narrows_with_more_values() -> None:
    values = np.random.default_rng(0).normal(5, 1, 400)
    few, many = bootstrap_mean(values[:20].tolist()), bootstrap_mean(values.tolist())
    assert few.low < few.mean < few.high
    assert many.high - many.low == pytest.approx(2 * 1.96 / 20, rel=0.2)
    assert many.high - many.low < (few.high - few.low) / 2
    with pytest.raises(ValueError, match="at least one"):
        bootstrap_mean([])


def test_the_classical_finder_finds_hair_and_leaves_skin_and_lesion_alone() -> None:
    false, corrected = [], []
    for seed in range(20, 30):
        drawn = phantom(seed, height=300, width=400, occlusions=())
        false.append(find_occlusions(drawn.clean).mean())
        corrected.append(find_occlusions(drawn.clean, drawn.lesion).mean())
    assert np.mean(corrected) < 0.03
    assert np.mean(corrected) < 0.4 * np.mean(false), "the mask takes the lesion's own structures out"
    covered, mask = draw_strokes(drawn.clean, np.random.default_rng(5))
    assert find_occlusions(covered)[mask & ~drawn.lesion].mean() > 0.6


def test_what_the_classical_finder_sees_within_a_lesion_is_the_lesions() -> None:
    image = np.full((200, 200, 3), 200, np.uint8)
    image[:, 98:101] = 60  # a hair over the whole picture
    image[80:120, 60:62] = 60  # a dark line within the lesion
    lesion = np.zeros((200, 200), bool)
    lesion[70:130, 50:150] = True
    assert find_occlusions(image)[100, 61]
    corrected = find_occlusions(image, lesion)
    assert corrected[100, 99]
    assert not corrected[100, 61]


def test_pairs_of_the_classical_finder_lack_the_hair_and_keep_the_rest() -> None:
    before, after = [], []
    for seed in (1, 2, 4):  # dark hairs: it is not meant to find blond ones
        drawn = phantom(seed, height=300, width=400, occlusions=())
        covered, mask = draw_hairs(drawn.clean, np.random.default_rng(seed))
        cleaned, painted = remove_occlusions(covered, drawn.lesion)
        np.testing.assert_array_equal(cleaned[~painted], covered[~painted])
        assert painted.mean() < 0.2
        for errors, image in ((before, covered), (after, cleaned)):
            errors.append(np.abs(image.astype(int) - drawn.clean)[mask].mean())
    assert np.mean(after) < np.mean(before) / 10


def test_pairs_of_the_classical_finder_keep_the_lesions_dark_structures() -> None:
    image = np.full((200, 200, 3), 200, np.uint8)
    image[:, 98:101] = 60  # a hair
    image[80:120, 60:62] = 60  # the lesion's own
    lesion = np.zeros((200, 200), bool)
    lesion[70:130, 50:150] = True
    cleaned, painted = remove_occlusions(image, lesion)
    assert not painted[80:120, 60:62].any()
    np.testing.assert_array_equal(cleaned[80:120, 60:62], image[80:120, 60:62])
    assert (cleaned[:, 98:101] > 190).all()
    assert (remove_occlusions(image)[0][80:120, 60:62] > 190).all()


def test_occluded_pairs_are_equal_outside_the_mask_and_the_same_for_a_seed() -> None:
    loader = OccludedPairs(phantom_backgrounds(1), crop=64, batch_size=4, steps=2)
    batches = []
    for _ in range(2):
        torch.manual_seed(7)
        batches.append([torch.cat(batch, dim=1) for batch in loader])
    assert len(batches[0]) == len(loader) == 2
    torch.testing.assert_close(batches[0], batches[1], rtol=0, atol=0)
    covered, clean, mask, unknown = batches[0][0].split([3, 3, 1, 1], dim=1)
    outside = (mask == 0).expand_as(clean)
    assert (covered - clean).abs()[outside].max() <= 4 / 255
    assert unknown.max() == 0


def test_hairs_of_the_phantoms_are_found_where_they_are_dark() -> None:
    skin = np.full((256, 256, 3), (225, 190, 170), np.uint8)
    covered, mask = draw_hairs(skin, np.random.default_rng(1), count=6)
    dark = mask & (covered.mean(axis=2) < 120)
    assert dark.any()
    assert find_occlusions(covered)[dark].mean() > 0.7


def test_prefetching_keeps_order_raises_errors_and_stops_with_its_consumer() -> None:
    assert list(prefetched(range(20), ahead=2)) == list(range(20))

    drawn: list[int] = []

    def endless() -> Iterator[int]:
        while True:
            drawn.append(len(drawn))
            yield drawn[-1]

    items = prefetched(endless(), ahead=2)
    assert [next(items), next(items)] == [0, 1]
    items.close()  # type: ignore[attr-defined]
    count = len(drawn)
    assert count <= 6

    def failing() -> Iterator[int]:
        yield 1
        raise RuntimeError("drawn badly")

    found = prefetched(failing())
    assert next(found) == 1
    with pytest.raises(RuntimeError, match="drawn badly"):
        next(found)
