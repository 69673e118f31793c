"""The recipes of enhance and purify, their training material and their figures."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

from dermbatch.errors import UsageError
from dermbatch.phantoms.occlusion import draw_hairs
from dermbatch.phantoms.phantom import phantom
from dermbatch.stages import Stage
from lesionnets import checkpoint, recipes
from lesionnets.data.batches.lesion_crops import lesion_box, load_lesion_crops
from lesionnets.data.batches.occluded import (
    OccludedPairs,
    draw_strokes,
    fainter,
    load_backgrounds,
    phantom_backgrounds,
)
from lesionnets.data.batches.patches import PatchPairs
from lesionnets.data.batches.pooled_patches import PooledPatches
from lesionnets.data.degradations import Degradation, degrade, own_random
from lesionnets.data.prefetch import prefetched
from lesionnets.data.sources.isic import Sample, find_samples
from lesionnets.evaluation import enhance as enhancing
from lesionnets.evaluation import purify as purifying
from lesionnets.evaluation.figures.intervals import bootstrap_mean
from lesionnets.evaluation.models.predictors import load_model
from lesionnets.export import export
from lesionnets.lookup import modules_below
from lesionnets.losses.perceptual import CONTENT_TAPS, PerceptualFeatures
from lesionnets.nets.classify.mobilenet import MobileNetV2
from lesionnets.nets.enhance.espcn import Espcn
from lesionnets.nets.enhance.srgan import SrganDiscriminator, SrganGenerator
from lesionnets.nets.purify.partial_purifier import PartialPurifier
from lesionnets.occlusions import find_occlusions, remove_occlusions
from lesionnets.recipes.enhance.enhance_espcn import LEAST_ERROR, enhance, loss_step
from lesionnets.recipes.enhance.enhance_srgan import SrganAdversary
from lesionnets.recipes.purify.purify_partial import loss_with
from lesionnets.recipes.purify.purify_unet import HairValidation, purify
from lesionnets.training import RecipeOptions, TrainingRun, fit

RECIPES = [
    ("enhance_espcn", "psnr_gain_clinical"),
    ("enhance_double", "psnr_gain_clinical"),
    ("enhance_plain", "psnr_gain_clinical"),
    ("enhance_srgan", "perceptual_gain"),
    ("purify_unet", "score"),
    ("purify_partial", "score"),
]


@pytest.mark.parametrize(("recipe", "figure"), RECIPES)
def test_smoke_training_writes_a_checkpoint_of_its_recipe(
    recipe: str, figure: str, isic_folder: Path, tmp_path: Path
) -> None:
    options = RecipeOptions(out=tmp_path, data=isic_folder, smoke=True)
    best = import_module(modules_below(recipes)[recipe]).train(options)
    trained = checkpoint.load(best, recipe=recipe)
    assert math.isfinite(trained.figures[figure])
    if recipe in ("enhance_srgan", "purify_partial"):  # the others' graphs have tests of their own
        check_what_is_served(trained, export(best, tmp_path / "repository"))
        assert "Not described" not in (tmp_path / "repository" / recipe / "MODEL_CARD.md").read_text()


def check_what_is_served(trained: checkpoint.Checkpoint, model_file: Path) -> None:
    run = load_model(model_file, Stage(trained.recipe.partition("_")[0]))
    output, by_torch = ("ENHANCED", enhance) if trained.recipe == "enhance_srgan" else ("PURIFIED", purify)
    for height, width in ((40, 56), (9, 17), (96, 130)):
        image = phantom(1, height=96, width=130).image[:height, :width]
        expected = by_torch(trained.build(), image)
        apart = np.abs(run(IMAGE=image)[output].astype(int) - expected).max(axis=2)
        # Two libraries round differently; pixels at a threshold may fall on either side.
        assert (apart > 2).mean() < 0.03


def test_who_purifies_nothing_leaves_all_and_changes_nothing() -> None:
    validation = HairValidation([phantom(3, height=96, width=130, occlusions=()).image], phantoms=1)
    figures = validation.of(lambda image: image)
    for name in ("isic", "phantom"):
        assert figures[f"{name}_after"] == figures[f"{name}_before"] > 0
        assert figures[f"{name}_remaining"] == 1
        assert figures[f"{name}_outside_share"] == 0


class Counter:
    """Learns beside a network: how many steps there were."""

    steps = 0

    def state_dict(self) -> dict[str, int]:
        return {"steps": self.steps}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.steps = state["steps"]


def test_what_learns_beside_the_network_is_gone_on_with(tmp_path: Path) -> None:
    counts = []
    for epochs in (1, 3):
        counter, model = Counter(), Espcn(4, 1)

        def loss_step(network: torch.nn.Module, batch: torch.Tensor, counter: Counter = counter) -> torch.Tensor:
            counter.steps += 1
            return network(batch).square().mean()

        fit(
            model,
            loss_step,
            [torch.rand(1, 3, 4, 4)] * 2,
            lambda _: {"figure": 0.0},
            run=TrainingRun("enhance_x", "espcn.Espcn", {"channels": 4, "blocks": 1}, tmp_path, best_by="figure"),
            optimiser=torch.optim.SGD(model.parameters(), lr=1e-3),
            epochs=epochs,
            resume=True,
            companion=counter,
        )
        counts.append(counter.steps)
    assert counts == [2, 6]


def test_an_adversary_learns_and_goes_on_where_it_stopped() -> None:
    torch.manual_seed(5)
    generator = SrganGenerator(0.0625, 1)
    features = PerceptualFeatures(MobileNetV2(), CONTENT_TAPS)
    one, other = (SrganAdversary(SrganDiscriminator(0.0625), features) for _ in range(2))
    batch = (torch.rand(2, 3, 8, 8), torch.rand(2, 3, 32, 32))
    before = [value.clone() for value in one.discriminator.parameters()]
    loss = one(generator, batch)
    assert any((a != b).any() for a, b in zip(before, one.discriminator.parameters(), strict=True))
    loss.backward()
    assert all(value.grad is not None and value.grad.any() for value in generator.parameters())
    assert not any(value.requires_grad for value in one.discriminator.parameters()), "only its own step moves it"
    assert one.discriminator.training
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    for adversary in (one, other):
        adversary(generator, batch)
    after = [list(adversary.discriminator.parameters()) for adversary in (one, other)]
    # A step is about 1e-4: without the optimiser's state it would be another one.
    torch.testing.assert_close(after[0], after[1], atol=1e-5, rtol=0)


def test_a_lesions_box_is_widened_within_the_image_and_divisible() -> None:
    mask = np.zeros((50, 60), np.uint8)
    mask[2:13, 30:50] = 255
    rows, columns = lesion_box(mask, margin=0.2)
    assert (rows.start, columns.start) == (0, 26)
    assert (rows.stop, columns.stop) == (16, 54)  # 17 - 17 % 4 and 54 - 28 % 4
    assert lesion_box(np.zeros((9, 10), np.uint8)) == (slice(0, 8), slice(0, 8))


def test_crops_need_masks(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no image has a mask"):
        load_lesion_crops([Sample("a", tmp_path / "a.jpg")])


def test_patches_are_pairs_at_a_quarter_and_the_same_for_a_seed() -> None:
    crops = [phantom(seed, height=96, width=128).clean for seed in range(2)]
    loader = PatchPairs(crops, patch=12, batch_size=6, steps=2)
    batches = []
    for _ in range(2):
        torch.manual_seed(0)
        batches.append(list(loader))
    assert len(batches[0]) == len(loader) == 2
    torch.testing.assert_close(batches[0], batches[1], rtol=0, atol=0)
    small, truth = batches[0][0]
    assert small.shape == (6, 3, 12, 12)
    assert truth.shape == (6, 3, 48, 48)
    reduced = torch.nn.functional.avg_pool2d(truth, 4)
    assert (reduced - small).abs().mean() < 0.03, "the pair shows the same patch"
    with pytest.raises(UsageError, match="measures 400 pixels"):
        PatchPairs(crops, patch=100, batch_size=6, steps=2)


def test_a_pool_of_patches_is_drawn_once_and_turned_alike() -> None:
    crops = [phantom(seed, height=96, width=128).clean for seed in range(2)]
    loader = PooledPatches(iter(crops), patch=8, each=6, batch_size=5, steps=2, seed=3)
    torch.manual_seed(1)
    batches = list(loader)
    assert len(batches) == len(loader) == 2
    for small, truth in batches:
        assert small.shape == (5, 3, 8, 8)
        assert truth.shape == (5, 3, 32, 32)
        assert (torch.nn.functional.avg_pool2d(truth, 4) - small).abs().mean() < 0.05, "the same patch"
    again = PooledPatches(iter(crops), patch=8, each=6, batch_size=5, steps=2, seed=3)
    torch.manual_seed(1)
    torch.testing.assert_close(list(again), batches, rtol=0, atol=0)
    with pytest.raises(UsageError, match="measures 400 pixels"):
        PooledPatches(iter(crops), patch=100, each=1, batch_size=1, steps=1, seed=0)


def test_patches_weigh_by_their_own_error() -> None:
    model, small = Espcn(4, 1), torch.full((2, 3, 8, 8), 0.5)
    truth = torch.full((2, 3, 32, 32), 0.5)
    truth[0] += 0.02
    truth[1] += 0.2
    alone = [math.log(error**2 + LEAST_ERROR) for error in (0.02, 0.2)]
    assert float(loss_step(model, (small, truth)).detach()) == pytest.approx(sum(alone) / 2, abs=1e-3)


@pytest.mark.parametrize("how", list(Degradation))
def test_degrading_keeps_the_picture_and_repeats_for_it(how: Degradation) -> None:
    truth = phantom(4, height=64, width=80).clean
    mean = truth.reshape(16, 4, 20, 4, 3).mean(axis=(1, 3))
    small = [degrade(truth, how, own_random(truth, seed)).astype(int) for seed in (0, 0, 1)]
    assert small[0].shape == (16, 20, 3)
    assert np.array_equal(small[0], small[1])
    drawn = how in (Degradation.CLINICAL, Degradation.PAPER)
    assert np.array_equal(small[0], small[2]) != drawn
    assert np.abs(small[0] - mean).mean() < (30 if drawn else 1.5)


def test_a_clinical_picture_has_noise_of_a_photograph() -> None:
    grey = np.full((256, 256, 3), 128, np.uint8)
    spread = [float(degrade(grey, Degradation.CLINICAL, np.random.default_rng(seed)).std()) for seed in range(30)]
    # JPEG takes some of the noise away, most of it at low quality.
    assert 0 < min(spread) < 2.5
    assert 4 < max(spread) < 8.5


def test_psnr_of_a_known_error() -> None:
    one = np.full((4, 4, 3), 100, np.uint8)
    assert enhancing.psnr(one, one) == math.inf
    assert enhancing.psnr(one, one + 10) == pytest.approx(20 * math.log10(25.5))


def test_ssim_of_known_pictures() -> None:
    image = phantom(2, height=48, width=48).clean
    assert enhancing.ssim(image, image) == 1
    flat = np.full((32, 32, 3), 100, np.uint8)
    # Without structure only the luminance term is left: (2ab + c) / (a^2 + b^2 + c), c = (0.01 * 255)^2.
    c = (0.01 * 255) ** 2
    expected = (2 * 100 * 120 + c) / (100**2 + 120**2 + c)
    assert enhancing.ssim(flat, flat + 20) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("how", list(Degradation))
def test_bicubic_has_no_gain_over_itself_and_the_truth_a_large_one(how: Degradation) -> None:
    images = [phantom(seed, height=66, width=81).clean for seed in range(2)]
    none = enhancing.measure(enhancing.bicubic, images, how=how)
    assert none["gain"].mean == none["ssim_gain"].mean == 0
    answers = iter([image[:64, :80] ^ 1 for image in images])
    found = enhancing.measure(lambda _: next(answers), images, how=how)
    assert found["gain"].low > 5
    assert found["gain"].mean == pytest.approx(found["psnr"].mean - found["psnr_bicubic"].mean)
    assert 0 < found["ssim_gain"].mean == pytest.approx(found["ssim"].mean - found["ssim_bicubic"].mean)
    assert "ssim" not in enhancing.measure(enhancing.bicubic, images, how=how, similarity=False)


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


@pytest.mark.parametrize("kind", list(purifying.DRAW))
def test_drawn_cases_differ_from_their_clean_image_only_where_they_say(kind: str) -> None:
    images = [phantom(seed, height=96, width=128).clean for seed in (1, 2)]
    cases = purifying.drawn_cases(images, kind, seed=4)
    for case in cases:
        changed = (case.clean != case.covered).any(axis=2)
        assert changed.any()
        assert not changed[~case.mask].any()
    assert not np.array_equal(cases[0].mask, cases[1].mask)
    assert np.array_equal(cases[0].covered, purifying.drawn_cases(images[:1], kind, seed=4)[0].covered)
    with pytest.raises(UsageError, match="'moss' cannot be drawn over images; choose from hair, ruler, ink"):
        purifying.drawn_kinds(["hair", "moss"])


def test_the_share_left_is_of_the_means() -> None:
    share = purifying.bootstrap_ratio([1, 3], [10, 10])
    assert share.mean == pytest.approx(0.2)
    assert (share.low, share.high) == pytest.approx((0.1, 0.3))
    assert purifying.bootstrap_ratio([2, 40], [4, 80]).low == 0.5


def test_pairs_of_the_classical_finder_are_trained_on_with_what_is_drawn(isic_folder: Path) -> None:
    samples = find_samples(isic_folder / "train" / "images", isic_folder / "train" / "masks")
    backgrounds = load_backgrounds(samples, most_covered=1.0, cleaned=True)
    (background,) = [one for one in backgrounds if one.found.mean() == max(b.found.mean() for b in backgrounds)][
        :1
    ]
    assert background.cleaned is not None
    changed = (background.image != background.cleaned).any(axis=2)
    assert changed.any()
    assert not changed[~background.found].any()
    torch.manual_seed(3)
    loader = OccludedPairs([background], crop=64, batch_size=4, steps=2)
    covered, clean, mask, unknown = (torch.cat(planes) for planes in zip(*loader, strict=True))
    assert unknown.max() == 0
    outside = (mask == 0).expand_as(clean)
    assert (covered - clean).abs()[outside].max() <= 4 / 255
    assert (covered - clean).abs()[~outside].mean() > 4 / 255


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


def lined_lesion() -> tuple[np.ndarray, np.ndarray]:
    """A picture of a hair over all of it and a dark line of the lesion's own, and the lesion's mask."""
    image = np.full((200, 200, 3), 200, np.uint8)
    image[:, 98:101] = 60
    image[80:120, 60:62] = 60
    lesion = np.zeros((200, 200), bool)
    lesion[70:130, 50:150] = True
    return image, lesion


def test_what_the_classical_finder_sees_within_a_lesion_is_the_lesions() -> None:
    image, lesion = lined_lesion()
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
    image, lesion = lined_lesion()
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


def test_the_partial_convolutions_loss_reaches_painter_and_finder_and_spares_what_is_shown() -> None:
    torch.manual_seed(4)
    model = PartialPurifier(0.0625, (4, 4))
    clean = torch.rand(2, 3, 64, 64)
    mask = torch.zeros(2, 1, 64, 64)
    mask[0, :, 20:40, 30:34] = 1
    batch = (torch.where(mask > 0, 0.0, clean), clean, mask, torch.zeros_like(mask))
    loss_step = loss_with(PerceptualFeatures(MobileNetV2()))
    loss = loss_step(model, batch)
    loss.backward()
    for part in (model.painter.head, model.head):
        assert all(value.grad is not None and value.grad.any() for value in part.parameters())
    # The second picture has no hole of its own: it gets the first one's.
    model.zero_grad()
    seen = []
    model.painter.register_forward_pre_hook(lambda _, given: seen.append(given[1]))
    loss_step(model, batch)
    assert (1 - seen[0]).sum(dim=(1, 2, 3)).tolist() == [24 * 8, 24 * 8]


def test_what_is_made_fainter_stays_where_it_was() -> None:
    clean = phantom(1, height=96, width=128).clean
    covered, mask = draw_hairs(clean, np.random.default_rng(1))
    contrasts = []
    for seed in range(12):
        faint = fainter(covered, clean, np.random.default_rng(seed))
        assert np.array_equal(faint[~mask], covered[~mask])
        contrasts.append(float((faint.astype(int) - clean)[mask].mean()))
    whole = abs(float((covered.astype(int) - clean)[mask].mean()))
    assert min(contrasts) < 0 < max(contrasts)
    assert all(0.15 * whole < abs(contrast) < 0.7 * whole for contrast in contrasts)


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
