"""Ensembles in a model repository: their steps, digest and single version; names and folders that export takes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from deploy.check_models import wrong_models
from dermbatch.errors import UsageError
from dermbatch.models.configuration import read_config
from dermbatch.models.repository import file_digest
from dermbatch.stages import Stage
from lesionnets import checkpoint, export
from lesionnets.ensemble import EnsembleStep, write_ensemble
from lesionnets.evaluation.models.predictors import load_model
from lesionnets.graphs import mb_dcnn, segment
from lesionnets.nets.enhance.espcn import Espcn
from lesionnets.nets.mutual.mb_dcnn_mobile import MobileCoarseSN, MobileMaskCN
from lesionnets.nets.mutual.mutual import MutualSN

HYPER = {"channels": 4, "blocks": 1}


def written(repository: Path, version: str, content: bytes) -> tuple[Path, str]:
    """An ensemble of one step whose file holds ``content``; its folder and digest."""
    model = repository / "first" / version / "model.onnx"
    model.parent.mkdir(parents=True)
    model.write_bytes(content)
    digest = file_digest(model)
    files = sorted((repository / "first").glob("*/model.onnx"))
    lines = [
        f'key: "sha256.{file.parent.name}" value: {{ string_value: "{file_digest(file)}" }}' for file in files
    ]
    (repository / "first" / "config.pbtxt").write_text("".join(f"parameters {{ {line} }}\n" for line in lines))
    steps = [EnsembleStep("first", version, digest, {"IMAGE": "IMAGE"}, {"LESION": "LESION"})]
    contract = segment.contract(MobileCoarseSN(0.1, 64))
    folder = repository / "whole"
    file = write_ensemble(folder, version, steps, stage=Stage.SEGMENT, contract=contract, batch=3)
    return folder, hashlib.sha256(file.read_bytes()).hexdigest()


def test_an_ensemble_states_the_digest_of_its_steps_and_has_one_version(tmp_path: Path) -> None:
    folder, first = written(tmp_path, "1", b"one")
    assert export.versions(folder) == ["1"]
    assert wrong_models(tmp_path) == []
    folder, second = written(tmp_path, "2", b"two")
    assert export.versions(folder) == ["2"], "Triton would run the newest steps for both"
    assert first != second
    config = read_config(folder)
    assert config.platform == "ensemble"
    assert config.max_batch_size == 3
    told = {key: value.string_value for key, value in config.parameters.items()}
    assert told == {"stage": "segment", "threshold": "0.5", "sha256.2": second}
    assert wrong_models(tmp_path) == []
    (step,) = config.ensemble_scheduling.step
    assert (step.model_name, step.model_version) == ("first", 2)
    assert dict(step.input_map) == {"IMAGE": "IMAGE"}
    assert dict(step.output_map) == {"LESION": "LESION"}


def test_a_step_that_is_not_the_one_that_was_meant_is_found(tmp_path: Path) -> None:
    written(tmp_path, "1", b"one")
    (tmp_path / "first" / "1" / "model.onnx").write_bytes(b"another")
    assert "whole: first version 1 is not the step that it names" in wrong_models(tmp_path)


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    state = Espcn(**HYPER).state_dict()
    checkpoint.save(
        folder / "best.pt", recipe="enhance_espcn", network="espcn.Espcn", hyper=HYPER, state=state, figures={}
    )
    return folder


def test_a_runs_folder_is_exported_under_a_name_of_ones_own(trained: Path, tmp_path: Path) -> None:
    file = export.export(trained, tmp_path / "repository", name="enhance_mine")
    assert file == tmp_path / "repository" / "enhance_mine" / "1" / "model.onnx"
    assert (file.parent.parent / "MODEL_CARD.md").read_text().startswith("# enhance_mine, version 1")


@pytest.mark.parametrize("name", ["../up", "a b", "__"])
def test_a_name_that_is_no_folders_name_is_refused(trained: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="cannot be a model's name"):
        export.export(trained, tmp_path, name=name)


def test_a_folder_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no checkpoint .*best\.pt"):
        export.export(tmp_path, tmp_path / "repository")


def test_checkpoints_of_mask_cn_and_of_the_whole_are_evaluated_by_their_own_graphs(tmp_path: Path) -> None:
    torch.manual_seed(0)
    hyper = {"backbone": "mobilenet", "segment": {"size": 64, "width": 0.25}, "classify": {"size": 64}}
    whole = MutualSN(**hyper).eval()
    image = torch.randint(256, (90, 70, 3), dtype=torch.uint8)
    lesion = torch.randint(256, (90, 70), dtype=torch.uint8)
    given = {"IMAGE": image.numpy(), "LESION": lesion.numpy()}
    for recipe, network, arguments, model, wrapper, stage in (
        ("segment_mb_dcnn", "mutual.MutualSN", hyper, whole, mb_dcnn.SegmentGraph, Stage.SEGMENT),
        (
            "classify_mask_cn",
            "mb_dcnn_mobile.MobileMaskCN",
            {"size": 64},
            whole.guide,
            mb_dcnn.ClassifyGraph,
            Stage.CLASSIFY,
        ),
    ):
        path = tmp_path / recipe / "best.pt"
        state = model.state_dict()
        checkpoint.save(path, recipe=recipe, network=network, hyper=arguments, state=state, figures={})
        inputs = {"IMAGE": given["IMAGE"]} if stage is Stage.SEGMENT else given
        found = load_model(path, stage)(**inputs)
        with torch.inference_mode():
            expected = wrapper(model).eval()(*(torch.from_numpy(value)[None] for value in inputs.values()))
        expected = expected if isinstance(expected, tuple) else (expected,)
        for ours, theirs in zip(found.values(), expected, strict=True):
            torch.testing.assert_close(torch.from_numpy(ours), theirs[0])


def test_mirrored_pictures_give_mirrored_lesions_where_flips_are_asked_for() -> None:
    torch.manual_seed(0)
    whole = MutualSN("mobilenet", {"size": 64, "width": 0.25}, {"size": 64}).eval()
    with torch.no_grad():
        whole.enhanced.decoder[-1].weight *= 100
    image, lesion = (
        torch.randint(256, (1, 128, 128, 3), dtype=torch.uint8),
        torch.zeros(1, 128, 128, dtype=torch.uint8),
    )
    lesion[:, 10:60, 20:50] = 255
    graph, classifier = mb_dcnn.SegmentGraph(whole, flips=True), mb_dcnn.ClassifyGraph(whole.guide, flips=True)
    with torch.inference_mode():
        assert (graph(image.flip(2)).flip(2).int() - graph(image).int()).abs().max() <= 1
        assert (mb_dcnn.SegmentGraph(whole)(image.flip(2)).flip(2) != mb_dcnn.SegmentGraph(whole)(image)).any()
        torch.testing.assert_close(classifier(image.flip(1), lesion.flip(1))[0], classifier(image, lesion)[0])


def test_the_drawn_classifier_has_a_saliency_over_the_whole_picture() -> None:
    torch.manual_seed(0)
    graph = mb_dcnn.ClassifyGraph(MobileMaskCN(size=64).eval())
    with torch.inference_mode():
        probabilities, embedding, saliency = graph(
            torch.randint(256, (2, 50, 80, 3), dtype=torch.uint8), torch.zeros(2, 50, 80, dtype=torch.uint8)
        )
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(2))
    torch.testing.assert_close(embedding.norm(dim=1), torch.ones(2))
    assert saliency.shape == (2, 64, 64)
    assert saliency.dtype == torch.uint8
    assert saliency.amax() > 200


def test_the_documented_lines_for_sixteen_bits_on_a_gpu_are_a_configuration() -> None:
    text = (Path(__file__).parents[2] / "docs" / "models.md").read_text()
    block = text.split("**FP16 on a GPU**")[1].split("```")[1]
    config = text_format.Parse(block, model_config_pb2.ModelConfig())
    (accelerator,) = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert accelerator.name == "tensorrt"
    assert accelerator.parameters["precision_mode"] == "FP16"
