"""The models that ship keep their stages' contracts, and do what their cards say."""

from __future__ import annotations

import hashlib
import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from quantised import int8_weights
from tritonclient.grpc import model_config_pb2

from dermbatch.images.fitting import fit, sent_size
from dermbatch.images.lesion import dice, lesion_mask
from dermbatch.models import served
from dermbatch.models.configuration import read_config
from dermbatch.models.contracts import CONTRACTS
from dermbatch.phantoms.phantom import phantom
from dermbatch.settings import DEFAULT_MODELS
from dermbatch.stages import Stage
from lesionnets.data.degradations import Degradation
from lesionnets.data.sources.isic import DIAGNOSES
from lesionnets.evaluation import enhance, purify
from lesionnets.evaluation.figures.overlap import jaccard
from lesionnets.export import MOST_BYTES, versions
from tests.pages import page

REPOSITORY = Path(__file__).parents[2] / "model_repository"
MODELS = {stage: choice.name for stage, choice in DEFAULT_MODELS.items()}
ONE_SHOT = "segment_oneshot", "oneshot_support"
DOUBLER = "enhance_double_int8"
RING_MARGIN = 0.05
"""Of Dice, on pale rings, that no model here was trained on."""
SIZES = [(1, 1), (1, 50), (97, 131), (256, 192)]


@cache
def config_of(name: str) -> Any:
    return read_config(REPOSITORY / name)


@cache
def session_of(name: str, version: str = "1") -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    path = REPOSITORY / name / version / "model.onnx"
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run(stage: Stage, **inputs: np.ndarray) -> dict[str, np.ndarray]:
    session = session_of(MODELS[stage])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, inputs), strict=True))


def parameter(stage: Stage, name: str) -> str:
    return str(config_of(MODELS[stage]).parameters[name].string_value)


def test_every_default_model_is_there_and_the_one_shot_pair_and_nothing_else() -> None:
    shipped = {*MODELS.values(), DOUBLER}
    unquantised = {name.removesuffix("_int8") for name in shipped}
    assert {path.name for path in REPOSITORY.iterdir()} == {*shipped, *unquantised, *ONE_SHOT}


@pytest.mark.parametrize("ending", ["_int8", ""])
def test_the_enhancer_names_the_doubler_in_its_own_arithmetic(ending: str) -> None:
    larger, smaller = (name.removesuffix("_int8") + ending for name in (MODELS[Stage.ENHANCE], DOUBLER))
    assert config_of(larger).parameters["doubler"].string_value == smaller
    file = REPOSITORY / smaller / "1" / "model.onnx"
    described = served.describe(Stage.ENHANCE, "1", config_of(smaller))
    assert described.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert (described.number("scale", 4), described.number("grid", 1)) == (2, 2)


@pytest.mark.parametrize("name", [name for name in (*MODELS.values(), DOUBLER) if name.endswith("_int8")])
def test_two_products_of_an_int8_model_fit_into_16_bits(name: str) -> None:
    # Processors without VNNI add two up in 16 bits, and saturate: they would give other pictures.
    weights = int8_weights(onnx.load(REPOSITORY / name / "1" / "model.onnx"))
    assert weights
    assert all(2 * 255 * np.abs(values).max() < 2**15 for values in weights)


@pytest.mark.parametrize("folder", sorted(REPOSITORY.iterdir()), ids=lambda folder: folder.name)
def test_a_card_names_its_model_and_the_size_of_its_file(folder: Path) -> None:
    card = (folder / "MODEL_CARD.md").read_text()
    assert card.startswith(f"# {folder.name}, version 1\n")
    assert f"{(folder / '1' / 'model.onnx').stat().st_size:,} bytes as served" in card


@pytest.mark.parametrize("name", ONE_SHOT)
def test_the_one_shot_pair_is_of_one_version_small_and_has_its_digests(name: str) -> None:
    folder, config = REPOSITORY / name, config_of(name)
    told = {key: value.string_value for key, value in config.parameters.items() if key.startswith("sha256.")}
    file = folder / "1" / "model.onnx"
    assert told == {"sha256.1": hashlib.sha256(file.read_bytes()).hexdigest()}
    assert file.stat().st_size <= MOST_BYTES / 2
    assert served.describe(Stage.SEGMENT if name == ONE_SHOT[0] else None, "1", config).sha256
    assert "Not a diagnosis" in (folder / "MODEL_CARD.md").read_text()


def test_one_shot_finds_rings_that_the_default_model_misses() -> None:
    shown = phantom(900, height=360, width=480, kind="ring", occlusions=())
    (known,) = session_of(ONE_SHOT[1]).run(
        None, {"IMAGE": shown.image[None], "MASK": shown.lesion.astype(np.uint8)[None]}
    )
    ours, theirs = [], []
    for seed in range(901, 913):
        drawn = phantom(seed, height=360, width=480, kind="ring", occlusions=())
        (found,) = session_of(ONE_SHOT[0]).run(None, {"IMAGE": drawn.image[None], "PROTOTYPES": known})
        default = run(Stage.SEGMENT, IMAGE=drawn.image[None])["LESION"]
        for kept, lesion in ((ours, found), (theirs, default)):
            mask = lesion_mask(lesion[0], drawn.lesion.shape, threshold=0.5).mask > 0
            kept.append(dice(mask, drawn.lesion))
    assert np.mean(ours) > np.mean(theirs) + RING_MARGIN


@pytest.mark.parametrize("stage", Stage)
def test_files_are_those_that_the_configuration_names_and_small(stage: Stage) -> None:
    folder = REPOSITORY / MODELS[stage]
    config = config_of(folder.name)
    assert config.name == folder.name
    assert parameter(stage, "stage") == stage
    told = {key: value.string_value for key, value in config.parameters.items() if key.startswith("sha256.")}
    files = {f"sha256.{version}": folder / version / "model.onnx" for version in versions(folder)}
    assert told == {key: hashlib.sha256(path.read_bytes()).hexdigest() for key, path in files.items()}
    assert all(path.stat().st_size <= MOST_BYTES for path in files.values())
    card = (folder / "MODEL_CARD.md").read_text()
    for needed in ("Not a diagnosis", "Licence", "## Figures", "## Limits", "Commit"):
        assert needed in card
    assert "unknown (not a checkout)" not in card


@pytest.mark.parametrize("stage", Stage)
def test_configuration_states_the_stages_contract(stage: Stage) -> None:
    config = config_of(MODELS[stage])
    types = {"uint8": "TYPE_UINT8", "float32": "TYPE_FP32"}
    for given, wanted in ((config.input, CONTRACTS[stage].inputs), (config.output, CONTRACTS[stage].outputs)):
        required = {tensor.name for tensor in wanted if not tensor.optional}
        assert required <= {tensor.name for tensor in given} <= {tensor.name for tensor in wanted}
        by_name = {tensor.name: tensor for tensor in wanted}
        for tensor in given:
            expected = by_name[tensor.name]
            assert model_config_pb2.DataType.Name(tensor.data_type) == types[expected.dtype]
            assert len(tensor.dims) == len(expected.dims)
    assert [list(tensor.dims[:2]) for tensor in config.input] == [[-1, -1]] * len(config.input)
    assert config.backend == "onnxruntime"
    assert config.max_batch_size == 4
    assert config.HasField("dynamic_batching")
    assert len(config.model_warmup) == 1


@pytest.mark.parametrize("stage", Stage)
def test_only_plain_onnx_operators_are_used(stage: Stage) -> None:
    model = onnx.load(REPOSITORY / MODELS[stage] / "1" / "model.onnx")
    assert {entry.domain for entry in model.opset_import if entry.version} <= {"", "ai.onnx"}
    assert max(entry.version for entry in model.opset_import) <= 18
    assert {node.domain for node in model.graph.node} == {""}


@pytest.mark.parametrize("stage", Stage)
@pytest.mark.parametrize("size", SIZES)
def test_models_keep_their_contract_at_any_size_and_batch(stage: Stage, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(sum(size))
    config = config_of(MODELS[stage])
    inputs = {
        tensor.name: rng.integers(0, 256, (2, *size, *tensor.dims[2:]), dtype=np.uint8) for tensor in config.input
    }
    together = run(stage, **inputs)
    assert set(together) == {tensor.name for tensor in config.output}
    for tensor in CONTRACTS[stage].outputs:
        if tensor.name in together:
            assert together[tensor.name].dtype == tensor.dtype
            assert together[tensor.name].ndim == 1 + len(tensor.dims)
    for tensor in config.output:
        for side, told in zip(together[tensor.name].shape[1:], tensor.dims, strict=True):
            assert told in {-1, side}
    same_size = {"PURIFIED": (*size, 3), "OCCLUSION": size, "LESION": size}
    for name, shape in same_size.items():
        if name in together:
            assert together[name].shape[1:] == shape
    if stage is Stage.ENHANCE:
        assert together["ENHANCED"].shape[1:] == (4 * size[0], 4 * size[1], 3)
    alone = run(stage, **{name: value[1:] for name, value in inputs.items()})
    for name, value in alone.items():
        np.testing.assert_allclose(value[0].astype(float), together[name][1].astype(float), atol=1.01)


@pytest.mark.parametrize("size", [(450, 600), (767, 1022)])
def test_purify_removes_drawn_hair_and_leaves_the_rest(size: tuple[int, int]) -> None:
    cases = purify.phantom_cases(6, height=size[0], width=size[1], seed=40_000)
    found = purify.measure(lambda image: run(Stage.PURIFY, IMAGE=image[None])["PURIFIED"][0], cases)
    assert found.share.mean < 0.2
    assert found.outside.mean <= 1


def test_purify_leaves_every_pixel_that_its_map_does_not_name() -> None:
    images = np.stack([phantom(seed, height=300, width=400).image for seed in (50, 51)])
    found = run(Stage.PURIFY, IMAGE=images)
    kept = found["OCCLUSION"] < math.ceil(float(parameter(Stage.PURIFY, "threshold")) * 255)
    assert 0 < kept.mean() < 1
    assert np.array_equal(found["PURIFIED"][kept], images[kept])


def test_purify_does_not_take_the_lesion_for_hair() -> None:
    shares = []
    for seed in range(60, 66):
        drawn = phantom(seed, height=300, width=400, occlusions=())
        purified = run(Stage.PURIFY, IMAGE=drawn.clean[None])["PURIFIED"][0]
        shares.append((purified != drawn.clean).any(axis=2)[drawn.lesion].mean())
    assert np.mean(shares) < 0.05


def test_segment_finds_the_lesions_of_phantoms() -> None:
    limit = 255 * float(parameter(Stage.SEGMENT, "threshold"))
    scores = []
    for seed in range(12):
        drawn = phantom(seed, height=300, width=400)
        scores.append(jaccard(run(Stage.SEGMENT, IMAGE=drawn.image[None])["LESION"][0] >= limit, drawn.lesion))
    assert np.mean(scores) > 0.7


@pytest.mark.parametrize("how", Degradation)
def test_enhance_is_better_than_bicubic(how: Degradation) -> None:
    images = [phantom(seed, height=240, width=320).clean for seed in range(6)]
    found = enhance.measure(lambda image: run(Stage.ENHANCE, IMAGE=image[None])["ENHANCED"][0], images, how=how)
    assert found["gain"].mean > 0.4
    assert found["gain"].low > 0
    if how in (Degradation.PLAIN, Degradation.AREA):
        # Without noise to take away, what it adds lies within what the small picture leaves open.
        assert found["reduced_error"].mean < found["reduced_error_bicubic"].mean
        assert found["reduced_error"].high < 1


def doubled(image: np.ndarray) -> np.ndarray:
    (out,) = session_of(DOUBLER).run(["ENHANCED"], {"IMAGE": image[None]})
    return np.asarray(out[0])


@pytest.mark.parametrize("how", Degradation)
def test_the_doubler_takes_noise_away_and_keeps_to_clean_pictures(how: Degradation) -> None:
    images = [phantom(seed, height=240, width=322).clean for seed in range(6)]
    found = enhance.measure(doubled, images, how=how, scale=2)
    if how in (Degradation.CLINICAL, Degradation.PAPER):
        assert found["gain"].low > 0
    else:  # hardly better than bicubic interpolation, and nothing is made up
        assert found["gain"].mean > -0.2
        assert found["reduced_error"].high < 1


def test_doubled_tiles_are_seamless() -> None:
    overlap = int(config_of(DOUBLER).parameters["overlap"].string_value)
    image = phantom(70, height=65, width=301).clean
    whole = doubled(image)
    for cut in (150, 151):
        start = cut - overlap // 2
        start -= start % 2
        left, right = doubled(image[:, : cut + overlap // 2]), doubled(image[:, start:])
        joined = np.concatenate([left[:, : 2 * cut], right[:, 2 * (cut - start) :]], axis=1)
        np.testing.assert_array_equal(joined, whole)


def test_enhanced_tiles_are_seamless() -> None:
    tile, overlap = int(parameter(Stage.ENHANCE, "tile")), int(parameter(Stage.ENHANCE, "overlap"))
    image = phantom(70, height=64, width=2 * tile - overlap).clean[None]
    whole = run(Stage.ENHANCE, IMAGE=image)["ENHANCED"]
    left = run(Stage.ENHANCE, IMAGE=image[:, :, :tile])["ENHANCED"]
    right = run(Stage.ENHANCE, IMAGE=image[:, :, tile - overlap :])["ENHANCED"]
    seam = 4 * (overlap // 2)
    joined = np.concatenate([left[:, :, :-seam], right[:, :, seam:]], axis=2)
    assert joined.shape == whole.shape
    assert np.abs(joined.astype(int) - whole).max() <= 1


def test_classify_gives_probabilities_by_label() -> None:
    config = config_of(MODELS[Stage.CLASSIFY])
    labels = (REPOSITORY / MODELS[Stage.CLASSIFY] / "labels.txt").read_text().split()
    assert tuple(labels) == tuple(parameter(Stage.CLASSIFY, "labels").split(",")) == DIAGNOSES
    (told,) = [tensor for tensor in config.output if tensor.name == "PROBABILITIES"]
    assert told.label_filename == "labels.txt"
    drawn = phantom(3)
    found = run(Stage.CLASSIFY, IMAGE=drawn.image[None], LESION=drawn.lesion[None].astype(np.uint8) * 255)
    assert found["PROBABILITIES"].shape == (1, len(labels))
    assert found["PROBABILITIES"].sum() == pytest.approx(1, abs=1e-4)
    assert found["PROBABILITIES"].min() >= 0
    assert np.isfinite(found["EMBEDDING"]).all()


def test_phantoms_of_all_sizes_are_dermoscopic_and_pages_screens_and_noise_are_none() -> None:
    def distance(image: np.ndarray, lesion: np.ndarray) -> float:
        height, width = sent_size((-1, -1), *image.shape[:2], int(parameter(Stage.CLASSIFY, "long_side")))
        sent = {"IMAGE": fit(image, (height, width))[None], "LESION": fit(lesion, (height, width))[None]}
        return float(run(Stage.CLASSIFY, **sent)["DISTANCE"][0, 0])

    for seed, (height, width) in enumerate([(300, 400), (480, 640), (768, 1024), (600, 600)] * 3):
        drawn = phantom(seed, height=height, width=width)
        lesion = drawn.lesion.astype(np.uint8) * 255
        assert distance(drawn.clean, lesion) < 1  # without hair, as purification leaves it
        assert distance(drawn.clean, 0 * lesion) < 1  # whether segmentation finds it or not
    rng, others = np.random.default_rng(0), [page(), page(480, 640)]
    others += [255 - page(700, 900), rng.integers(0, 256, (480, 640, 3), dtype=np.uint8)]
    others += [np.full((300, 400, 3), light, np.uint8) for light in (0, 255)]
    for other in others:
        assert distance(other, np.zeros(other.shape[:2], np.uint8)) > 1
