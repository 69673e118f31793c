"""Reading labelled folders, augmenting, cutting lesions, dequantising weights."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from cutting import cut_square

from dermbatch.errors import UsageError
from dermbatch.phantoms.phantom import phantom
from lesionnets.data import augment
from lesionnets.data.batches.lesion_views import Lesion, plain_view, random_view, square_of
from lesionnets.data.sources.isic import (
    Sample,
    find_labelled,
    find_samples,
    load_pairs,
    read_image,
    read_labels,
    read_mask,
    read_pair,
)
from lesionnets.graphs.crop import lesion_square
from lesionnets.graphs.sampling import area_sample
from lesionnets.nets.classify.mobilenet import MobileNetV2
from lesionnets.nets.tflite import load_mobilenet
from lesionnets.training import seed_everything


def test_samples_are_found_with_their_masks(isic_folder: Path) -> None:
    samples = find_samples(isic_folder / "train" / "images", isic_folder / "train" / "masks")
    assert [sample.image_id for sample in samples] == [f"PH_train_{i}" for i in range(8)]
    images, masks = load_pairs(samples, 32)
    assert images.shape == (8, 32, 32, 3)
    assert masks.shape == (8, 32, 32)
    assert set(np.unique(read_mask(samples[0].mask))) == {0, 255}  # type: ignore[arg-type]


def test_labelled_images_may_lack_a_mask(isic_folder: Path) -> None:
    folders = [isic_folder / "val" / "images", isic_folder / "unmasked_256"]
    found = find_labelled(folders, isic_folder / "labels.csv", masks=isic_folder / "val" / "masks", split="val")
    assert [sample.mask is None for sample in found] == [False] * 6 + [True] * 2
    assert [sample.diagnosis for sample in found[:3]] == ["melanoma", "nevus", "seborrheic_keratosis"]
    assert len(read_labels(isic_folder / "labels.csv")) == 16


def test_colours_are_read_as_rgb(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "red.png"), np.full((4, 6, 3), (0, 0, 255), np.uint8))
    assert read_image(tmp_path / "red.png")[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("image_id,split\na,train\n", "needs the columns"),
        ("image_id,diagnosis\na,wart\n", "other than melanoma, nevus"),
        ("image_id,diagnosis\nz,nevus\n", "has a diagnosis"),
        ("image_id,diagnosis\n", "holds no labels"),
        ("image_id,diagnosis\na\n", "other than melanoma, nevus"),
    ],
)
def test_wrong_labels_are_usage_errors(tmp_path: Path, labels: str, message: str) -> None:
    (tmp_path / "labels.csv").write_text(labels)
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(UsageError, match=message):
        find_labelled([tmp_path], tmp_path / "labels.csv")


def test_missing_and_broken_files_are_usage_errors(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no folder"):
        find_samples(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="holds no image"):
        find_samples(tmp_path)
    with pytest.raises(UsageError, match="no label file"):
        read_labels(tmp_path / "labels.csv")
    (tmp_path / "a.jpg").write_text("no image")
    for read in (read_image, read_mask):
        with pytest.raises(UsageError, match="cannot be read"):
            read(tmp_path / "a.jpg")
    with pytest.raises(UsageError, match="has no mask"):
        load_pairs(find_samples(tmp_path), 8)


def test_labels_without_a_split_or_that_are_no_text_are_usage_errors(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("image_id,diagnosis\na,nevus\n")
    assert read_labels(path) == {"a": "nevus"}
    with pytest.raises(UsageError, match="needs the columns split"):
        read_labels(path, split="val")
    path.write_bytes(b"image_id,diagnosis\n\xff\xfe\n")
    with pytest.raises(UsageError, match="cannot be read as a CSV file"):
        read_labels(path)


def put(folder: Path, name: str, height: int = 40, width: int = 60, mask: tuple[int, int] | None = None) -> None:
    """An image, and a mask of another resolution with a lesion in its left half."""
    (folder / "masks").mkdir(exist_ok=True)
    cv2.imwrite(str(folder / f"{name}.jpg"), np.full((height, width, 3), 90, np.uint8))
    if mask is not None:
        lesion = np.zeros(mask, np.uint8)
        lesion[:, : mask[1] // 2] = 255
        cv2.imwrite(str(folder / "masks" / f"{name}_segmentation.png"), lesion)


def test_a_mask_without_its_image_is_a_usage_error(tmp_path: Path) -> None:
    put(tmp_path, "a", mask=(40, 60))
    cv2.imwrite(str(tmp_path / "masks" / "b_segmentation.png"), np.full((40, 60), 255, np.uint8))
    with pytest.raises(UsageError, match=r"no image for the mask .*b_segmentation\.png"):
        find_samples(tmp_path, tmp_path / "masks")
    put(tmp_path, "b")
    assert [sample.image_id for sample in find_samples(tmp_path, tmp_path / "masks")] == ["a", "b"]


def test_a_mask_may_be_finer_than_its_image_but_not_of_another_shape(tmp_path: Path) -> None:
    for name, mask in (("finer", (121, 180)), ("coarser", (20, 30))):
        put(tmp_path, name, mask=mask)
        sample = Sample(name, tmp_path / f"{name}.jpg", tmp_path / "masks" / f"{name}_segmentation.png")
        image, lesion = read_pair(sample)
        assert lesion.shape == image.shape[:2] == (40, 60)
        assert lesion[:, :29].min() == 255
        assert lesion[:, 31:].max() == 0
        image, lesion = read_pair(sample, 16)
        assert (image.shape, lesion.shape) == ((16, 16, 3), (16, 16))
        assert lesion[:, :7].min() == 255
        assert lesion[:, 9:].max() == 0
    put(tmp_path, "turned", mask=(60, 40))
    sample = Sample("turned", tmp_path / "turned.jpg", tmp_path / "masks" / "turned_segmentation.png")
    with pytest.raises(UsageError, match="is 40 x 60 pixels, but its image 60 x 40"):
        load_pairs([sample], 16)
    cv2.imwrite(str(sample.mask), np.zeros((40, 60), np.uint8))
    with pytest.raises(UsageError, match="is empty"):
        read_pair(sample)


def test_augmented_masks_stay_on_their_lesions() -> None:
    height = width = 128
    rows, columns = np.mgrid[:height, :width]
    mask = (np.hypot(rows - 70, columns - 50) < 25).astype(np.uint8) * 255
    image = np.where(mask[:, :, None] > 0, np.uint8(60), np.uint8(200)).repeat(3, axis=2)
    for seed in range(30):
        view, label = augment.random_view(image, mask, 96, np.random.default_rng(seed))
        assert view.shape == (96, 96, 3)
        dark = (view[:, :, 0] > 40) & (view[:, :, 0] < 130)  # 0 is the black surround
        lesion = label > 127
        union = np.count_nonzero(dark | lesion)
        # Black and stretched surrounds make a thin rim or streak where the two may differ.
        assert union == 0 or np.count_nonzero(dark & lesion) / union > 0.6, seed


def test_augmentations_differ_by_seed_only() -> None:
    drawn = phantom(1, height=64, width=64)
    mask = drawn.lesion.astype(np.uint8) * 255
    first, again, other = (
        augment.augment_pair(drawn.image, mask, 48, np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])


def test_a_vignette_hides_the_label_with_the_lesion() -> None:
    image = np.full((64, 64, 3), 200, np.uint8)
    view, label = augment.vignette(image, np.full((64, 64), 255, np.uint8), np.random.default_rng(0))
    assert view[0, 0].max() < 60
    assert label[0, 0] == 0
    assert view[32, 32].min() > 190
    assert label[32, 32] == 255


def test_coarsening_takes_detail_but_not_light() -> None:
    drawn = phantom(2, height=96, width=96)
    coarse = [augment.coarsen(drawn.image, np.random.default_rng(seed)) for seed in range(8)]
    detail = [cv2.Laplacian(each, cv2.CV_64F).std() for each in (drawn.image, *coarse)]
    assert all(each.shape == drawn.image.shape for each in coarse)
    assert min(detail[1:]) < 0.5 * detail[0]
    assert max(detail[1:]) <= detail[0]
    assert abs(np.mean(coarse) - drawn.image.mean()) < 1


def test_the_classifier_is_trained_on_the_view_that_is_served() -> None:
    drawn = phantom(5, height=384, width=512, occlusions=())
    mask = drawn.lesion.astype(np.uint8) * 255
    view, label = plain_view(Lesion(drawn.image, (mask,), 0), 64)
    image, lesion = torch.from_numpy(drawn.image)[None], torch.from_numpy(mask)[None, :, :, None]
    small = area_sample(lesion, 256, 2)
    square = lesion_square(small, 384, 512)
    served = cut_square(area_sample(image, 512, 2), square, 384, 512, 64)[0].permute(1, 2, 0).numpy() * 255
    served_mask = cut_square(small, square, 384, 512, 64)[0, 0].numpy() * 255
    assert np.abs(view.astype(float) - served).mean() < 5
    assert np.mean((label > 127) != (served_mask > 127)) < 0.02


def test_random_views_show_the_lesion() -> None:
    drawn = phantom(6, height=120, width=160, occlusions=())
    mask = drawn.lesion.astype(np.uint8) * 255
    lesion = Lesion(drawn.image, (mask,), 1)
    row, column, side = square_of(mask)
    assert mask[int(row) - 3 : int(row) + 4, int(column) - 3 : int(column) + 4].any()
    assert 0.3 * 120 <= side <= 160
    labels = [random_view(lesion, 32, np.random.default_rng(seed))[1] for seed in range(40)]
    shares = np.array([np.mean(label > 127) for label in labels])
    assert 0 < np.count_nonzero(shares == 0) < 10  # now and then nothing was found
    assert np.median(shares) > 0.1


def test_weights_that_are_no_mobilenet_are_usage_errors(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no weight file"):
        load_mobilenet(MobileNetV2(), tmp_path / "weights.tflite")
    (tmp_path / "weights.tflite").write_bytes(b"\0" * 64)
    with pytest.raises(UsageError, match="not a TensorFlow Lite model"):
        load_mobilenet(MobileNetV2(), tmp_path / "weights.tflite")


@pytest.mark.shared_data
def test_imagenet_weights_know_a_cat() -> None:
    from skimage import data

    folder = Path(__file__).parents[3] / "shared" / "data" / "weights" / "mobilenet_v2_imagenet"
    if not folder.is_dir():
        pytest.skip("the ImageNet weights are not beside the checkout")
    names = (folder / "imagenet_labels.txt").read_text().splitlines()
    image = cv2.resize(data.chelsea()[:, 75:375], (224, 224), interpolation=cv2.INTER_AREA)
    for path in sorted(folder.glob("*.tflite")):
        seed_everything(0)
        model = MobileNetV2().eval()
        weight, bias = load_mobilenet(model, path)
        with torch.inference_mode():
            features = model(torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255)
            logits = features.mean(dim=(2, 3)) @ weight.T + bias
        assert "cat" in names[int(logits.argmax())]
