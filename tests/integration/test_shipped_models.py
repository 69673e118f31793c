"""The shipped models behind the stage functions, served by a real Triton, on photographs as cameras made them."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks.comparison.work import Given, Work
from dermbatch.images.imagefile import read_image
from dermbatch.models.repository import default_model_repository
from dermbatch.phantoms.phantom import phantom
from dermbatch.phantoms.samples import write_samples
from dermbatch.settings import DEFAULT_MODELS, Settings
from dermbatch.stages import ORDER, Stage
from tests.pages import page
from workers.image.quality import quality_flags
from workers.inference.onnx import OnnxRuntime
from workers.stages.classify import ClassifyParameters, classify
from workers.stages.enhance import EnhanceParameters, doubler_of, enhance
from workers.stages.purify import PurifyParameters, purify
from workers.stages.segment import SegmentParameters, segment
from workers.triton.client import TritonClient

NATIVE = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "isic_native"


@pytest.fixture(scope="module")
def client(start_triton):
    client = TritonClient(start_triton(default_model_repository()).settings)
    yield client
    client.close()


@pytest.fixture(scope="module")
def photographs():
    """The photographs of native size that have an expert's mask."""
    if not NATIVE.is_dir():
        pytest.skip(f"the photographs are not there: {NATIVE}")
    found = []
    for path in sorted((NATIVE / "masks").iterdir()):
        name = path.stem.removesuffix("_segmentation")
        image = read_image((NATIVE / "images" / f"{name}.jpg").read_bytes(), max_pixels=10**8).pixels
        found.append((image, cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) > 0))
    assert len(found) >= 20
    return found


def test_the_shipped_models_in_process_give_what_triton_gives(client, tmp_path):
    (path,) = write_samples(tmp_path, 1)
    work = Work(Given(Settings(), default_model_repository()))
    in_process = work.made(work.decoded(path.read_bytes()))
    work._client = client
    for name, by_triton in work.made(work.decoded(path.read_bytes())).items():
        np.testing.assert_array_equal(in_process[name], by_triton)


def classified(image, client):
    """What the stages give of a picture, one after the other, and the flags that it raises."""
    models = {stage: client.model(stage, DEFAULT_MODELS[stage]) for stage in ORDER}
    purified = purify(image, client, models[Stage.PURIFY], PurifyParameters.of(models[Stage.PURIFY]))
    found = segment(purified.image, client, models[Stage.SEGMENT], SegmentParameters.of(models[Stage.SEGMENT]))
    classifier = models[Stage.CLASSIFY]
    output = classify(purified.image, found.mask, client, classifier, ClassifyParameters.of(classifier)).output
    return output, quality_flags((purified.output, found.output, output))


def test_a_page_of_text_is_flagged_and_gets_no_diagnosis_and_a_phantom_gets_one(client):
    output, flags = classified(page(), client)
    assert output.distance > 1
    assert (output.label, output.probabilities) == (None, {})
    assert "not_dermoscopic" in flags
    output, flags = classified(phantom(1).image, client)
    assert output.distance <= 1
    assert output.label in output.probabilities
    assert "not_dermoscopic" not in flags


@pytest.mark.shared_data
def test_no_photograph_of_a_lesion_is_flagged(client, photographs):
    for image, _ in photographs[::3]:
        assert "not_dermoscopic" not in classified(image, client)[1]


@pytest.mark.shared_data
def test_masks_lie_on_the_lesions(client, photographs):
    model = client.model(Stage.SEGMENT, DEFAULT_MODELS[Stage.SEGMENT])
    overlaps = []
    for image, truth in photographs:
        found = segment(image, client, model, SegmentParameters.of(model))
        assert found.mask.shape == truth.shape == image.shape[:2]
        lesion = found.mask > 0
        overlaps.append((lesion & truth).sum() / (lesion | truth).sum())
    # Not a measure of the model, which was trained on these very images: but a mask that is turned, shifted or
    # brought to the image's size in a wrong way shows.
    assert np.mean(overlaps) > 0.8
    assert np.min(overlaps) > 0.5


def test_a_lesion_enlarged_at_most_twice_is_doubled_by_either_engine(client):
    image = phantom(4, height=700, width=900, occlusions=()).image
    lesion = np.zeros((700, 900), np.uint8)
    cv2.ellipse(lesion, (451, 349), (235, 180), 20, 0, 360, 255, -1)
    made, asked = [], []
    for engine in (client, OnnxRuntime(default_model_repository())):
        model = engine.model(Stage.ENHANCE, DEFAULT_MODELS[Stage.ENHANCE])
        doubler = doubler_of(model, engine)
        parameters = EnhanceParameters.of(model)
        made.append(enhance(image, lesion, engine, model, parameters, doubler=doubler))
        asked.append(enhance(image, lesion, engine, model, parameters))
    assert doubler.number("scale", 4) == 2
    assert 1.5 < made[0].output.scale < 2
    assert made[0].output == made[1].output == asked[0].output
    np.testing.assert_array_equal(made[0].image, made[1].image)
    np.testing.assert_array_equal(asked[0].image, asked[1].image)
    # Without it, the model that enlarges four times still serves: much the same picture, but not the same.
    apart = np.abs(made[0].image.astype(int) - asked[0].image)
    assert 0 < apart.mean() < 3


@pytest.mark.shared_data
def test_an_enhanced_lesion_is_the_same_picture_with_more_detail(client, photographs):
    model = client.model(Stage.ENHANCE, DEFAULT_MODELS[Stage.ENHANCE])
    parameters = EnhanceParameters.of(model)
    gains = []
    for image, truth in photographs[:6]:
        small = cv2.resize(image, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)[:150, :150]
        mask = cv2.resize(truth.astype(np.uint8) * 255, None, fx=0.25, fy=0.25)[:150, :150]
        mask = np.where(mask > 127, 255, 0).astype(np.uint8)
        enhanced = enhance(small, mask, client, model, parameters)
        box = enhanced.output.box
        if box is None:
            continue
        assert enhanced.output.scale == 4
        crop = slice(box.top, box.bottom), slice(box.left, box.right)
        real = image[4 * box.top : 4 * box.bottom, 4 * box.left : 4 * box.right]
        plain = cv2.resize(small[crop], None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)
        inside = cv2.resize(mask[crop], None, fx=4, fy=4) == 255
        errors = [np.square(made[inside].astype(float) - real[inside]).mean() for made in (plain, enhanced.image)]
        gains.append(10 * np.log10(errors[0] / errors[1]))
    assert len(gains) >= 3
    assert np.mean(gains) > 0.1  # dB of PSNR over bicubic
