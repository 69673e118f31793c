import numpy as np
import pytest
from standins import Triton, purify_green, served, skin_with_lesion

from dermbatch.errors import ModelContractError
from workers.stages.purify import PurifyParameters, purify

PARAMETERS = PurifyParameters()


def run(image, model=None, parameters=PARAMETERS):
    client = Triton({"m": purify_green})
    return purify(image, client, model or served(), parameters), client


@pytest.mark.parametrize("size", [(300, 400), (767, 1022), (1536, 2048)])
def test_hair_goes_and_nothing_else_changes(size):
    image = skin_with_lesion(*size, hair=True)
    hair = image[..., 1] == 250
    purified, _ = run(image)
    assert purified.image.shape == image.shape
    # The best part of the hair is skin again ...
    before = np.abs(image[hair].astype(int) - (200, 150, 130)).mean()
    after = np.abs(purified.image[hair].astype(int) - (200, 150, 130)).mean()
    assert after < before / 10
    # ... and no pixel beyond it was touched.
    np.testing.assert_array_equal(purified.image[~hair], image[~hair])
    assert purified.output.occluded_fraction == pytest.approx(hair.mean(), rel=0.2)


@pytest.mark.parametrize("size", [(300, 400), (1536, 2048)])
def test_a_clean_image_is_handed_on_as_it_is(size):
    image = skin_with_lesion(*size)
    purified, _ = run(image)
    assert purified.image is image
    assert purified.output.occluded_fraction == 0


def test_large_images_are_reduced_before_they_travel():
    _, client = run(skin_with_lesion(1536, 2048))
    assert client.asked[0][1]["IMAGE"].shape == (768, 1024, 3)


def test_the_original_is_left_alone():
    image = skin_with_lesion(1500, 2000, hair=True)
    copy = image.copy()
    run(image)
    np.testing.assert_array_equal(image, copy)


def test_parameters_come_from_the_models_configuration():
    model = served(threshold=0.35, long_side=512)
    assert PurifyParameters.of(model) == PurifyParameters(threshold=0.35, long_side=512)
    with pytest.raises(ModelContractError, match="'much' as parameter 'threshold'"):
        PurifyParameters.of(served(threshold="much"))


def test_an_answer_of_another_size_is_found_out():
    client = Triton({"m": lambda IMAGE: purify_green(IMAGE[::2])})  # noqa: N803
    with pytest.raises(ModelContractError, match="answered PURIFIED of shape"):
        purify(skin_with_lesion(40, 40), client, served(), PARAMETERS)
