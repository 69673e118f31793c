"""`lesionnets evaluate` gives the same for a checkpoint, its exported file and what a real Triton serves."""

import json
import shutil

import cv2
import numpy as np
import pytest

import lesionnets.cli
from dermbatch.errors import UsageError
from dermbatch.models.repository import default_model_repository
from dermbatch.phantoms.phantom import phantom
from dermbatch.stages import Stage
from lesionnets import export
from lesionnets.evaluation.models.predictors import load_model
from orchestrator.stack.ports import free_ports
from tests.checkpoints import decided_unet


@pytest.fixture(scope="module")
def served(tmp_path_factory, start_triton):
    """A checkpoint of segmentation, its export with mirror images, and a Triton of it and the classifier."""
    folder = tmp_path_factory.mktemp("evaluated")
    best = decided_unet(folder, width=0.125, seed=1)
    file = export.export(best, folder / "repository", version="3", flips=True)
    shutil.copytree(default_model_repository() / "classify_lite", folder / "repository" / "classify_lite")
    triton = start_triton(folder / "repository")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DERMBATCH_TRITON__KEY", triton.settings.key.get_secret_value())
        yield best, file, f"triton://127.0.0.1:{triton.ports.grpc}"


@pytest.fixture
def images(tmp_path):
    rows = ["image_id,diagnosis"]
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for number in range(4):
        drawn = phantom(number, height=300, width=400)
        cv2.imwrite(str(tmp_path / "images" / f"p{number}.png"), drawn.image[:, :, ::-1])
        mask = drawn.lesion.astype(np.uint8) * 255
        cv2.imwrite(str(tmp_path / "masks" / f"p{number}_segmentation.png"), mask)
        rows.append(f"p{number},{'melanoma' if number % 2 else 'nevus'}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    return tmp_path


def figures(monkeypatch, capsys, *words):
    monkeypatch.setattr("sys.argv", ["lesionnets", "evaluate", *map(str, words), "--json"])
    with pytest.raises(SystemExit) as ended:
        lesionnets.cli.main()
    output = capsys.readouterr()
    assert not ended.value.code, output.err
    return json.loads(output.out)["figures"]


def test_the_three_have_the_same_figures(served, images, monkeypatch, capsys):
    best, file, triton = served
    folders = ("--images", images / "images", "--masks", images / "masks")
    found = [
        figures(monkeypatch, capsys, "segment", *folders, "--model", *model)
        for model in ((best, "--flips"), (file,), (f"{triton}/segment_unet@3",))
    ]
    assert 0.05 < found[0]["jaccard"]["mean"] < 0.95
    for other in found[1:]:
        for name, figure in found[0].items():
            if name.startswith(("surface", "hausdorff")) and not name.endswith("share"):
                continue  # pixels; the shares say the same
            assert other[name]["mean"] == pytest.approx(figure["mean"], abs=0.002), name

    labels = (
        "--images",
        images / "images",
        "--labels",
        images / "labels.csv",
        "--segment",
        f"{triton}/segment_unet",
    )
    shipped = default_model_repository() / "classify_lite" / "1" / "model.onnx"
    one, other = (
        figures(monkeypatch, capsys, "classify", *labels, "--model", model)
        for model in (shipped, f"{triton}/classify_lite")
    )
    assert one.keys() == other.keys()
    for name in ("nll", "brier", "expected_calibration_error"):
        assert other[name]["mean"] == pytest.approx(one[name]["mean"], abs=1e-4)


def test_the_three_agree_pixel_by_pixel(served):
    best, file, triton = served
    models = [
        load_model(best, Stage.SEGMENT, flips=True),
        load_model(file, Stage.SEGMENT),
        load_model(f"{triton}/segment_unet", Stage.SEGMENT),
    ]
    assert {model.number("threshold", 0) for model in models} == {0.5}
    for seed in range(3):
        image = phantom(seed, height=200, width=320).image
        maps = [model(IMAGE=image)["LESION"].astype(int) for model in models]
        for other in maps[1:]:
            assert np.abs(other - maps[0]).max() <= 2
        without_flips = load_model(best, Stage.SEGMENT)(IMAGE=image)["LESION"].astype(int)
        assert np.abs(without_flips - maps[0]).max() > 20
    shipped, served_too = (
        load_model(model, Stage.CLASSIFY)
        for model in (
            default_model_repository() / "classify_lite" / "1" / "model.onnx",
            f"{triton}/classify_lite@1",
        )
    )
    assert shipped.labels == served_too.labels
    drawn = phantom(4)
    inputs = {"IMAGE": drawn.image, "LESION": drawn.lesion.astype(np.uint8) * 255}
    one, other = (model(**inputs) for model in (shipped, served_too))
    np.testing.assert_allclose(one["PROBABILITIES"], other["PROBABILITIES"], atol=2 / 255)


@pytest.mark.parametrize(
    ("address", "stage", "complaint"),
    [
        ("{triton}/nobody", Stage.SEGMENT, "serves no model 'nobody'"),
        ("{triton}/segment_unet@1", Stage.SEGMENT, "serves segment_unet in version 3, not 1"),
        (
            "{triton}/classify_lite",
            Stage.SEGMENT,
            "gives DISTANCE, EMBEDDING, .*; the segment stage has IMAGE and LESION",
        ),
        ("{nobody}/segment_unet", Stage.SEGMENT, "no Triton answers gRPC at 127.0.0.1:"),
        ("{triton}", Stage.SEGMENT, "is not the address of a model"),
        ("{triton}/segment_unet@new", Stage.SEGMENT, "is not the address of a model"),
        ("{triton}/segment_unet@", Stage.SEGMENT, "is not the address of a model"),
        ("triton://host:port/segment_unet", Stage.SEGMENT, "is not the address of a model"),
        ("triton:segment_unet", Stage.SEGMENT, "is not the address of a model"),
    ],
)
def test_what_cannot_be_measured_is_said_in_a_sentence(served, address, stage, complaint):
    nobody = f"triton://127.0.0.1:{free_ports(1)[0]}"
    with pytest.raises(UsageError, match=complaint):
        load_model(address.format(triton=served[2], nobody=nobody), stage)
