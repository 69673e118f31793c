"""Models are measured on what is served: their pictures, their masks, their thresholds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from dermbatch.errors import ModelContractError, UsageError
from dermbatch.images import lesion
from dermbatch.phantoms.phantom import phantom
from dermbatch.stages import Stage
from lesionnets import checkpoint, export
from lesionnets.data.sources import ham10000
from lesionnets.data.sources.isic import Sample, read_mask
from lesionnets.evaluation import classify, downstream, segment
from lesionnets.evaluation.models.predictors import LoadedModel, load_model
from lesionnets.evaluation.samples import with_diagnoses, with_masks
from lesionnets.graphs import classify as classify_graph
from lesionnets.graphs.classify import ClassifyGraph
from lesionnets.graphs.segment import SegmentGraph
from lesionnets.nets.classify.mobilenet import LesionClassifier
from lesionnets.nets.segment.unet import UNet

REPOSITORY = Path(__file__).parents[2] / "model_repository"
Image = npt.NDArray[np.uint8]


@pytest.fixture
def samples(isic_folder: Path) -> list[Sample]:
    return with_masks([isic_folder / "val" / "images"], isic_folder / "val" / "masks").samples


@pytest.fixture
def networks(tmp_path: Path) -> dict[Stage, Path]:
    """Checkpoints of a small segmenter and a small classifier, with random weights."""
    torch.manual_seed(1)
    found = {}
    for stage, recipe, network, hyper in (
        (Stage.SEGMENT, "segment_unet", "unet.UNet", {"width": 0.125, "size": 64}),
        (Stage.CLASSIFY, "classify_mobilenet", "mobilenet.LesionClassifier", {"classes": 3, "size": 64}),
    ):
        found[stage] = tmp_path / f"{stage}.pt"
        state = checkpoint.network(network, hyper).state_dict()
        if stage is Stage.SEGMENT:
            state["head.weight"] *= 20  # decided, as a trained network is
        checkpoint.save(found[stage], recipe=recipe, network=network, hyper=hyper, state=state, figures={})
    return found


def expert(samples: list[Sample]) -> LoadedModel:
    """Answers with the experts' masks in turn."""
    masks = iter([read_mask(sample.mask) for sample in samples if sample.mask])
    return LoadedModel("expert", run=lambda IMAGE: {"LESION": next(masks)})  # noqa: N803


def classifier(rows: list[list[float]], seen: list[Any]) -> LoadedModel:
    """Answers with rows in turn, and notes what it was given."""

    def run(**inputs: Image) -> dict[str, npt.NDArray[np.float32]]:
        seen.append(inputs)
        return {"PROBABILITIES": np.array(rows[len(seen) - 1], np.float32)}

    return LoadedModel("classifier", run=run)


# Segmentation


def test_who_knows_the_masks_gets_full_marks(samples: list[Sample]) -> None:
    figures = segment.evaluate(expert(samples), samples)
    distances = {name for name in figures if name.startswith(("surface", "hausdorff"))}
    for name, figure in figures.items():
        best = 0 if name in distances | {"calibration_error"} else 1
        assert (figure.mean, figure.low, figure.high) == (best, best, best), name
    assert len(distances) == 4


def test_the_mask_that_is_measured_is_the_workers(tmp_path: Path) -> None:
    """Holes are filled and specks dropped, at the model's threshold; not where the network's own is asked for."""
    truth = np.zeros((60, 90), np.uint8)
    truth[10:50, 20:70] = 255
    answer = truth.copy()
    answer[30:32, 40:42] = 0
    answer[0, 0] = 255
    answer[10:50, 60:70] = 100
    cv2.imwrite(str(tmp_path / "a_segmentation.png"), truth)
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((60, 90, 3), np.uint8))
    sample = Sample("a", tmp_path / "a.png", tmp_path / "a_segmentation.png")
    found = {}
    for threshold in ("0.5", "0.3"):
        parameters = {"threshold": threshold}
        model = LoadedModel("m", parameters=parameters, run=lambda IMAGE: {"LESION": answer})  # noqa: N803
        for raw in (False, True):
            found[threshold, raw] = segment.evaluate(model, [sample], raw=raw)["jaccard"].mean
    assert found["0.3", False] == 1
    assert found["0.3", True] == pytest.approx((2000 - 4) / 2001)
    assert found["0.5", False] == pytest.approx(0.8)
    assert found["0.5", True] == pytest.approx((1600 - 4) / 2001)


def test_masks_may_be_finer_than_images_but_not_of_another_shape(tmp_path: Path) -> None:
    truth = np.zeros((60, 90), np.uint8)
    truth[15:45, 30:60] = 255
    cv2.imwrite(str(tmp_path / "a_segmentation.png"), truth)
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((20, 30, 3), np.uint8))
    sample = Sample("a", tmp_path / "a.png", tmp_path / "a_segmentation.png")
    coarse = np.asarray(cv2.resize(truth, (30, 20), interpolation=cv2.INTER_AREA), np.uint8)
    figures = segment.evaluate(LoadedModel("m", run=lambda IMAGE: {"LESION": coarse}), [sample])  # noqa: N803
    assert figures["jaccard"].mean > 0.95
    assert figures["hausdorff_95"].mean <= 1.5
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((30, 30, 3), np.uint8))
    with pytest.raises(UsageError, match="90 x 60 pixels, but its image 30 x 30"):
        segment.read_pair(sample)
    with pytest.raises(UsageError, match="has no mask"):
        segment.read_pair(Sample("a", tmp_path / "a.png"))
    cv2.imwrite(str(tmp_path / "a_segmentation.png"), truth[:, :60] * 0)
    with pytest.raises(UsageError, match=r"a_segmentation\.png is empty"):
        segment.read_pair(sample)
    (tmp_path / "a.png").write_bytes(b"nothing")
    with pytest.raises(UsageError, match=r"a\.png cannot be read: "):
        segment.read_pair(sample)


# Resolution


@pytest.mark.parametrize(
    ("native", "model", "expected"),
    [
        (False, LoadedModel("m", run=dict), (512, 1024)),
        (True, LoadedModel("m", run=dict), (600, 1200)),
        (False, LoadedModel("m", parameters={"long_side": "300"}, run=dict), (150, 300)),
        (True, LoadedModel("m", parameters={"long_side": "300"}, run=dict), (600, 1200)),
        (False, LoadedModel("m", shapes={"IMAGE": (64, 96, 3)}, run=dict), (64, 96)),
        (True, LoadedModel("m", shapes={"IMAGE": (64, 96, 3)}, run=dict), (64, 96)),
    ],
)
def test_images_are_sent_as_a_worker_sends_them_or_whole(
    native: bool, model: LoadedModel, expected: tuple[int, int]
) -> None:
    assert model.fitted(np.zeros((600, 1200, 3), np.uint8), native=native).shape[:2] == expected


def test_maps_of_a_reduced_image_are_measured_at_the_masks_resolution(tmp_path: Path) -> None:
    drawn = phantom(5, height=900, width=1200)
    cv2.imwrite(str(tmp_path / "a.png"), drawn.image[:, :, ::-1])
    cv2.imwrite(str(tmp_path / "a_segmentation.png"), drawn.lesion.astype(np.uint8) * 255)
    sizes = []

    def run(IMAGE: Image) -> dict[str, Image]:  # noqa: N803
        sizes.append(IMAGE.shape[:2])
        size = (IMAGE.shape[1], IMAGE.shape[0])
        mask = cv2.resize(drawn.lesion.astype(np.uint8) * 255, size, interpolation=cv2.INTER_AREA)
        return {"LESION": np.asarray(mask, np.uint8)}

    sample = Sample("a", tmp_path / "a.png", tmp_path / "a_segmentation.png")
    served, native = (
        segment.evaluate(LoadedModel("m", run=run), [sample], native=native)["jaccard"].mean
        for native in (False, True)
    )
    assert sizes == [(768, 1024), (900, 1200)]
    assert served > 0.98
    assert native == 1


# Classification


def test_a_classifier_is_fed_the_mask_it_would_be_fed_in_service(isic_folder: Path) -> None:
    folders = [isic_folder / "val" / "images", isic_folder / "unmasked_256"]
    masks = isic_folder / "val" / "masks"
    found = with_diagnoses(folders, isic_folder / "labels.csv", masks=masks, split="val").samples
    rows = [[float(sample.diagnosis == name) for name in classify.DIAGNOSES] for sample in found]
    seen: list[Any] = []
    figures = classify.evaluate(classifier(rows, seen), found, None, rounds=5)
    assert all(inputs["LESION"].shape == inputs["IMAGE"].shape[:2] for inputs in seen)
    assert [int(inputs["LESION"].max()) for inputs in seen] == [0] * 2 + [255] * 6
    assert (figures["mean_auc"].mean, figures["accuracy"].mean) == (1, 1)

    def specks_and_a_square(IMAGE: Image) -> dict[str, Image]:  # noqa: N803
        answer = np.zeros(IMAGE.shape[:2], np.uint8)
        answer[10:40, 10:40], answer[50, 50] = 200, 200
        return {"LESION": answer}

    seen.clear()
    classify.evaluate(classifier(rows, seen), found, LoadedModel("s", run=specks_and_a_square), rounds=5)
    for sample, inputs in zip(found, seen, strict=True):
        assert set(np.unique(inputs["LESION"])) <= {0, 255}
        assert bool((inputs["LESION"] > 0).sum() == 900) is (sample.mask is None)


def test_seven_classes_are_known_by_their_number_their_labels_or_their_names(samples: list[Sample]) -> None:
    names = ham10000.DIAGNOSES
    labelled = [Sample(s.image_id, s.image, s.mask, names[i]) for i, s in enumerate(samples)]
    rows = np.eye(7)[: len(labelled)].tolist()
    other = {"labels": ",".join(reversed(names))}
    for model, classes, accuracy in (
        (classifier(rows, []), (), 1),
        (LoadedModel("m", parameters=other, run=classifier(rows, []).run), (), 1 / 6),  # df, in the middle
        (LoadedModel("m", parameters=other, run=classifier(rows, []).run), names, 1),
    ):
        figures = classify.evaluate(model, labelled, None, classes=classes, rounds=2)
        assert figures["accuracy"].mean == pytest.approx(accuracy)
        assert {f"auc_{name}" for name in names[:6]} <= set(figures)
        assert "auc_vasc" not in figures


def test_classes_that_do_not_fit_are_refused(samples: list[Sample]) -> None:
    def labelled(*diagnoses: str | None) -> list[Sample]:
        return [Sample(s.image_id, s.image, None, d) for s, d in zip(samples, diagnoses, strict=False)]

    three, five = LoadedModel("m", run=classifier([[0.2, 0.3, 0.5]] * 9, []).run), classifier([[0.2] * 5] * 9, [])
    two = labelled("nevus", "melanoma")
    for model, given, classes, message in (
        (
            three,
            labelled("nevus", "bkl", "zoster"),
            (),
            "not classes of m: bkl, zoster .it knows melanoma, nevus, sebo",
        ),
        (three, labelled("nevus", "nevus"), (), "all images are labelled nevus"),
        (three, labelled("nevus", None), (), "has no diagnosis"),
        (three, two, ("nevus", "melanoma"), "3 probabilities, but 2 classes are named: .* --classes"),
        (five, two, (), "5 probabilities, but its classes are not named"),
    ):
        with pytest.raises(UsageError, match=message):
            classify.evaluate(LoadedModel("m", run=model.run), given, None, classes=classes)


# Purification


def test_what_purification_changes_downstream_is_measured(isic_folder: Path) -> None:
    """A purifier that knows the clean pictures makes all as on them; one that does nothing changes nothing."""
    val = isic_folder / "val"
    found = with_diagnoses([val / "images"], isic_folder / "labels.csv", masks=val / "masks", split="val").samples
    clean = iter([segment.read_picture(sample) for sample in found])

    def dark(IMAGE: Image) -> dict[str, Image]:  # noqa: N803
        return {"LESION": np.where(IMAGE.mean(axis=2) < 140, np.uint8(255), np.uint8(0))}

    def by_darkness(IMAGE: Image, LESION: Image) -> dict[str, npt.NDArray[np.float32]]:  # noqa: N803
        share = float(IMAGE.mean()) / 255
        return {"PROBABILITIES": np.array([share, 1 - share, float((LESION > 0).mean())], np.float32)}

    models = (LoadedModel("s", run=dark), LoadedModel("c", run=by_darkness))
    knowing = LoadedModel("p", run=lambda IMAGE: {"PURIFIED": next(clean)})  # noqa: N803
    figures = downstream.evaluate(knowing, *models, found, rounds=20)
    assert figures["jaccard_off"].mean < figures["jaccard_clean"].mean
    assert figures["jaccard_on"] == figures["jaccard_clean"]
    gain = figures["jaccard_on_minus_off"]
    assert gain.mean == pytest.approx(figures["jaccard_on"].mean - figures["jaccard_off"].mean)
    for name in ("jaccard", "mean_auc", "auc_nevus"):
        change = figures[f"{name}_on_minus_clean"]
        assert (change.mean, change.low, change.high) == (0, 0, 0)
    idle = LoadedModel("p", run=lambda IMAGE: {"PURIFIED": IMAGE})  # noqa: N803
    thrice = downstream.evaluate(idle, *models, found, drawings=3, rounds=20)
    assert thrice["jaccard_clean"] == figures["jaccard_clean"]
    assert thrice["jaccard_off"] != figures["jaccard_off"]
    assert thrice["mean_auc_off"] == thrice["mean_auc_on"]
    figures = downstream.evaluate(idle, models[0], None, found)
    assert figures["jaccard_on_minus_off"].high == figures["jaccard_on_minus_off"].low == 0
    assert not any("auc" in name for name in figures)
    with pytest.raises(UsageError, match="no image has a mask"):
        downstream.evaluate(idle, models[0], None, [Sample("a", found[0].image)])


# Flips


@pytest.mark.parametrize("stage", [Stage.SEGMENT, Stage.CLASSIFY])
def test_flips_are_the_mean_over_mirror_images(networks: dict[Stage, Path], stage: Stage) -> None:
    drawn = phantom(1, height=96, width=128)
    inputs = {"IMAGE": drawn.image}
    if stage is Stage.CLASSIFY:
        inputs["LESION"] = drawn.lesion.astype(np.uint8) * 255
    output = {Stage.SEGMENT: "LESION", Stage.CLASSIFY: "PROBABILITIES"}[stage]
    plain, flipped = (load_model(networks[stage], stage, flips=flips) for flips in (False, True))
    views = []
    for axes in ((), (0,), (1,), (0, 1)):
        given = {name: np.ascontiguousarray(np.flip(value, axes)) for name, value in inputs.items()}
        answer = plain(**given)[output].astype(float)
        views.append(np.flip(answer, axes) if stage is Stage.SEGMENT else answer)
    found = flipped(**inputs)[output]
    # Points of the grid that is gathered first do not lie in mirror image: hence not to the last bit.
    tolerance = {Stage.SEGMENT: 2.5, Stage.CLASSIFY: 0.005}[stage]
    assert np.abs(found - np.mean(views, axis=0)).mean() < tolerance
    assert np.abs(views[0] - np.mean(views, axis=0)).mean() > 2 * np.abs(found - np.mean(views, axis=0)).mean()


def test_the_exported_classifier_mirrors_where_it_was_told_to() -> None:
    """With one layer in place of the backbone, which takes seconds to export."""
    torch.manual_seed(0)
    network = LesionClassifier(classes=3, size=64).eval()
    network.backbone = nn.Conv2d(3, 1280, 32, stride=32)  # type: ignore[assignment]
    with torch.no_grad():
        network.head.weight.mul_(30)
    drawn = phantom(2, height=96, width=128)
    inputs = {"IMAGE": drawn.image[None], "LESION": drawn.lesion[None].astype(np.uint8) * 255}
    session = onnxruntime.InferenceSession(classify_graph.build(network, flips=True).SerializeToString())
    served = session.run(None, inputs)
    with torch.inference_mode():
        flipped, plain = (
            ClassifyGraph(network, flips=flips)(*(torch.from_numpy(value) for value in inputs.values()))
            for flips in (True, False)
        )
    assert np.abs(served[0] - flipped[0].numpy()).max() < 1e-4
    assert np.abs(served[0] - plain[0].numpy()).max() > 1e-2
    for found, own in zip(flipped[1:], plain[1:], strict=True):
        assert torch.equal(found, own)


def test_flips_without_a_checkpoint_or_for_other_stages_are_refused(tmp_path: Path) -> None:
    path, hyper = tmp_path / "best.pt", {"channels": 4, "blocks": 1}
    state = checkpoint.network("espcn.Espcn", hyper).state_dict()
    checkpoint.save(path, recipe="enhance_x", network="espcn.Espcn", hyper=hyper, state=state, figures={})
    with pytest.raises(UsageError, match="--flips is for segmentation and classification, not for the enhance"):
        export.export(path, tmp_path, flips=True)
    onnx_file = tmp_path / "model.onnx"
    onnx_file.touch()
    for model in (onnx_file, "triton://localhost:1/x"):
        with pytest.raises(UsageError, match="--flips is for checkpoints"):
            load_model(model, Stage.SEGMENT, flips=True)


# Models


def test_a_served_file_brings_its_configuration(networks: dict[Stage, Path], tmp_path: Path) -> None:
    file = tmp_path / "classify_lite" / "1" / "model.onnx"
    file.parent.mkdir(parents=True)
    file.write_bytes((REPOSITORY / "classify_lite" / "1" / "model.onnx").read_bytes())
    assert load_model(file, Stage.CLASSIFY).labels == ()
    config = file.parent.parent / "config.pbtxt"
    config.write_text((REPOSITORY / "classify_lite" / "config.pbtxt").read_text())
    assert load_model(file, Stage.CLASSIFY).labels == classify.DIAGNOSES
    assert load_model(networks[Stage.CLASSIFY], Stage.CLASSIFY).labels == classify.DIAGNOSES
    assert load_model(networks[Stage.SEGMENT], Stage.SEGMENT).number("threshold", 0) == lesion.THRESHOLD
    config.write_text("name: [")
    with pytest.raises(ModelContractError, match=r"config\.pbtxt cannot be read"):
        load_model(file, Stage.CLASSIFY)
    with pytest.raises(UsageError, match="'x' as parameter 'threshold', which is not a number"):
        LoadedModel("m", parameters={"threshold": "x"}, run=dict).number("threshold", 0.5)


def test_a_model_of_another_stage_or_network_is_refused(networks: dict[Stage, Path], tmp_path: Path) -> None:
    message = "takes IMAGE, LESION and gives DISTANCE, EMBEDDING, .*; the segment stage has IMAGE and LESION"
    with pytest.raises(UsageError, match=message):
        load_model(REPOSITORY / "classify_lite" / "1" / "model.onnx", Stage.SEGMENT)
    with pytest.raises(UsageError, match="recipe 'classify_mobilenet', which is not for the segment stage"):
        load_model(networks[Stage.CLASSIFY], Stage.SEGMENT)
    hyper = {"channels": 4, "blocks": 1}
    state = checkpoint.network("espcn.Espcn", hyper).state_dict()
    wrong = tmp_path / "wrong.pt"
    checkpoint.save(wrong, recipe="segment_x", network="espcn.Espcn", hyper=hyper, state=state, figures={})
    with pytest.raises(UsageError, match="holds a Espcn; the segment graph takes a Segmenter"):
        load_model(wrong, Stage.SEGMENT)


def test_a_graph_of_a_fixed_size_is_sent_that_size(tmp_path: Path) -> None:
    graph = onnx.load(REPOSITORY / "segment_lite" / "1" / "model.onnx")
    for tensor in (graph.graph.input[0], graph.graph.output[0]):
        for axis, side in ((1, 64), (2, 96)):
            tensor.type.tensor_type.shape.dim[axis].dim_value = side
    onnx.save(graph, tmp_path / "fixed.onnx")
    model = load_model(tmp_path / "fixed.onnx", Stage.SEGMENT)
    assert model.image_size == (64, 96)
    image = phantom(3, height=120, width=160).image
    assert segment.lesion_probability(model, image, native=True).shape == (64, 96)


def test_flips_cost_nothing_of_the_contract() -> None:
    """Both graphs answer as without flips: names, shapes and types."""
    drawn = torch.randint(0, 256, (1, 50, 70, 3), dtype=torch.uint8)
    mask = torch.randint(0, 2, (1, 50, 70), dtype=torch.uint8) * 255
    with torch.inference_mode():
        for flips in (False, True):
            assert SegmentGraph(UNet(width=0.125, size=32), flips=flips).eval()(drawn).shape == (1, 50, 70)
            found = ClassifyGraph(LesionClassifier(classes=3, size=32), flips=flips).eval()(drawn, mask)
            assert [tuple(value.shape) for value in found] == [(1, 3), (1, 1280), (1, 64, 64)]
            assert float(found[0].sum()) == pytest.approx(1, abs=1e-5)
