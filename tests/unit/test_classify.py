import hashlib
from dataclasses import replace

import numpy as np
import pytest
from standins import Triton, classify_by_area, served, skin_with_lesion

from dermbatch.errors import ModelContractError
from workers.stages.classify import ClassifyParameters, classify

LABELS = "melanoma,nevus,seborrheic_keratosis"


def run(image, function=classify_by_area, labels=LABELS):
    mask = (image[..., 0] < 140).astype(np.uint8) * 255
    client = Triton({"m": function})
    return classify(image, mask, client, served(), ClassifyParameters(labels)), client


def test_probabilities_are_told_by_label():
    classified, _ = run(skin_with_lesion(300, 400, radius=140))
    output = classified.output
    assert list(output.probabilities) == LABELS.split(",")
    assert output.probabilities["melanoma"] == pytest.approx(np.pi * 140**2 / 120000, abs=0.01)
    assert output.label == "melanoma"
    assert run(skin_with_lesion(300, 400, radius=20))[0].output.label == "nevus"


def test_image_and_mask_are_sent_at_one_size():
    _, client = run(skin_with_lesion(2304, 3072))
    sent = client.asked[0][1]
    assert sent["IMAGE"].shape == (768, 1024, 3)
    assert sent["LESION"].shape == (768, 1024)
    assert sent["LESION"].mean() == pytest.approx(np.pi / 16 * 0.75 * 255, rel=0.02)


def test_the_digest_is_that_of_the_embedding():
    classified, _ = run(skin_with_lesion(300, 400))
    assert classified.embedding.dtype == np.float32
    assert classified.output.embedding_sha256 == hashlib.sha256(classified.embedding.tobytes()).hexdigest()
    assert classified.saliency.dtype == np.uint8


def test_labels_come_from_the_models_configuration():
    assert ClassifyParameters.of(served(labels=" a, b ,c")).labels == "a,b,c"
    with pytest.raises(ModelContractError, match="names no classes"):
        ClassifyParameters.of(served())


def test_a_class_too_few_is_found_out():
    with pytest.raises(ModelContractError, match=r"PROBABILITIES of shape \[3\], not \[2\]"):
        run(skin_with_lesion(30, 40), labels="a,b")


def test_what_is_no_number_is_no_probability():
    def broken(IMAGE, LESION):  # noqa: N803
        return classify_by_area(IMAGE, LESION) | {"PROBABILITIES": np.full(3, np.nan, np.float32)}

    with pytest.raises(ModelContractError, match="not numbers"):
        run(skin_with_lesion(30, 40), broken)


def with_patterns(length=1.0, side=3):
    def function(IMAGE, LESION):  # noqa: N803
        places = np.zeros((side, side, 2), np.float32)
        places[1, 1] = 0.6 * length, 0.8 * length
        return classify_by_area(IMAGE, LESION) | {"PATTERNS": places}

    return Triton({"m": function})


def describing(client):
    model = replace(served(), shapes={"IMAGE": (-1, -1, 3), "PATTERNS": (3, 3, 2)})
    image = skin_with_lesion(30, 40)
    return classify(image, (image[..., 0] < 140).astype(np.uint8) * 255, client, model, ClassifyParameters(LABELS))


def test_local_descriptors_are_kept_of_models_that_give_them():
    found = describing(with_patterns()).patterns
    assert found.dtype == np.float16
    assert np.linalg.norm(found.astype(np.float32), axis=2).sum() == pytest.approx(1, abs=1e-3)
    assert run(skin_with_lesion(30, 40))[0].patterns is None


def test_local_descriptors_of_another_shape_or_length_are_refused():
    with pytest.raises(ModelContractError, match=r"PATTERNS of shape \[4, 4, 2\], not \[3, 3, 2\]"):
        describing(with_patterns(side=4))
    for length in (np.nan, 10.0):
        with pytest.raises(ModelContractError, match="PATTERNS of lengths that do not sum to 1"):
            describing(with_patterns(length=length))
