"""MB-DCNN as `lesionnets export` writes it: an ensemble in a real Triton, its steps, mask-CN as a classifier."""

import hashlib
import shutil

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from deploy.check_models import wrong_models
from dermbatch.models.configuration import read_config
from dermbatch.models.repository import file_digest
from dermbatch.phantoms.phantom import phantom
from dermbatch.records.asked import ModelChoice
from dermbatch.stages import Stage
from lesionnets import checkpoint
from lesionnets.ensemble import EnsembleStep, write_ensemble
from lesionnets.evaluation.models.predictors import load_model
from lesionnets.export import export
from lesionnets.graphs import mb_dcnn
from lesionnets.nets.mutual.mutual import MutualSN
from workers.stages.segment import SegmentParameters, segment
from workers.triton.client import TritonClient

ENSEMBLE = "segment_mb_dcnn"
STEPS = ("segment_coarse_sn", "mb_dcnn_mask_cn", "mb_dcnn_enhanced_sn")
HYPER = {"backbone": "mobilenet", "segment": {"size": 64, "width": 0.25}, "classify": {"size": 64}}
NEAR = 2
"""Levels of 255 by which two ways to the same mask may differ."""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run whose networks are drawn, and tell light from dark."""
    torch.manual_seed(2)
    model = MutualSN(**HYPER).eval()
    images = torch.from_numpy(pictures()).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        model.enhanced.told.weight[:, -1] += 0.5
        # Drawn weights give nearly flat maps: the logits are stretched to a lesion of some contrast.
        for network, last in ((model.coarse, model.coarse.decoder[-1]), (model, model.enhanced.decoder[-1])):
            last.weight *= 1.5 / network(images).std()
            last.bias -= network(images).mean()
        model.temperature.fill_(1.3)
    folder = tmp_path_factory.mktemp("mb_dcnn")
    checkpoint.save(
        folder / "best.pt",
        recipe=ENSEMBLE,
        network="mutual.MutualSN",
        hyper=HYPER,
        state=model.state_dict(),
        figures={"jaccard": 0.8, "coarse_jaccard": 0.7, "mask_mean_auc": 0.9, "unguided_mean_auc": 0.85},
    )
    return folder


@pytest.fixture(scope="module")
def repository(run, tmp_path_factory):
    """What the folder is exported to, and the same ensemble again with another coarse-SN and another name."""
    repository = tmp_path_factory.mktemp("repository")
    assert export(run, repository) == repository / ENSEMBLE / "1" / "steps.txt"
    coarse = repository / STEPS[0]
    shutil.copytree(coarse / "1", coarse / "2")
    model = onnx.load(coarse / "2" / "model.onnx")
    (bias,) = [tensor for tensor in model.graph.initializer if tensor.name.endswith("decoder.2.bias")]
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + 2, bias.name))
    onnx.save(model, coarse / "2" / "model.onnx")
    digest = file_digest(coarse / "2" / "model.onnx")
    with (coarse / "config.pbtxt").open("a") as config:
        config.write(f'parameters {{ key: "sha256.2" value: {{ string_value: "{digest}" }} }}\n')
    steps = [
        EnsembleStep(STEPS[0], "2", digest, {"IMAGE": "IMAGE"}, {"LESION": "LESION"}),
    ]
    contract = mb_dcnn.contract(checkpoint.load(run / "best.pt").build())
    write_ensemble(repository / "segment_other", "2", steps, stage=Stage.SEGMENT, contract=contract, batch=4)
    return repository


@pytest.fixture(scope="module")
def client(start_triton, repository):
    client = TritonClient(start_triton(repository).settings)
    yield client
    client.close()


def pictures():
    return np.stack([phantom(seed, height=150, width=200).image for seed in range(3)])


def served(client, name, stage=Stage.SEGMENT, version=None):
    return client.model(stage, ModelChoice(name=name, version=version))


def test_every_file_is_the_one_that_its_configuration_names(repository):
    assert wrong_models(repository) == []
    steps = (repository / ENSEMBLE / "1" / "steps.txt").read_text().splitlines()
    assert steps == [f"{name} 1 {file_digest(repository / name / '1' / 'model.onnx')}" for name in STEPS]
    config = read_config(repository / ENSEMBLE)
    assert [(step.model_name, step.model_version) for step in config.ensemble_scheduling.step] == [
        (name, 1) for name in STEPS
    ]
    assert "stage" not in read_config(repository / STEPS[1]).parameters, "a step serves no stage on its own"


def test_cards_tell_each_parts_figures(repository):
    told = {
        ENSEMBLE: ("| coarse jaccard | 0.700 |", "| jaccard | 0.800 |", "| unguided mean auc | 0.850 |"),
        "segment_coarse_sn": ("| jaccard | 0.700 |", "# segment_coarse_sn, version 1"),
        "classify_mask_cn": ("| mean auc | 0.900 |", "lesionnets train mb_dcnn"),
    }
    for name, rows in told.items():
        card = (repository / name / "MODEL_CARD.md").read_text()
        for row in (*rows, "Not a diagnosis", "Apache-2.0", "## Limits"):
            assert row in card, name


def test_float32_arithmetic_around_bytes_is_all_that_an_accelerator_meets(repository):
    # What FP16 by configuration needs: no half arithmetic of our own, weights stored as halves are cast back.
    for name in (*STEPS, "classify_mask_cn"):
        model = onnx.load(repository / name / "1" / "model.onnx")
        assert {node.domain for node in model.graph.node} == {""}
        halves = {t.name for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT16}
        readers = {node.op_type for node in model.graph.node if halves & set(node.input)}
        assert readers <= {"Cast"}
        assert halves


@pytest.mark.parametrize("size", [(97, 131), (40, 33)])
def test_steps_in_onnx_runtime_are_the_networks(repository, run, size):
    network = checkpoint.load(run / "best.pt").build()
    rng = np.random.default_rng(1)
    image, mask = (rng.integers(0, 256, (2, *size, *more), dtype=np.uint8) for more in ((3,), ()))
    where = rng.integers(0, 256, (2, 4, 4), dtype=np.uint8)
    for name, graph, given in (
        ("mb_dcnn_mask_cn", mb_dcnn.LocaliseGraph(network.guide), {"IMAGE": image, "COARSE": mask}),
        ("mb_dcnn_enhanced_sn", mb_dcnn.EnhanceGraph(network), {"IMAGE": image, "WHERE": where}),
    ):
        session = onnxruntime.InferenceSession(
            str(repository / name / "1" / "model.onnx"), providers=["CPUExecutionProvider"]
        )
        with torch.inference_mode():
            expected = graph.eval()(*map(torch.from_numpy, given.values()))
        expected = expected if isinstance(expected, tuple) else (expected,)
        for ours, theirs in zip(expected, session.run(None, given), strict=True):
            assert theirs.shape == tuple(ours.shape)
            near = NEAR if theirs.dtype == np.uint8 else 1e-3
            assert np.abs(theirs.astype(float) - ours.numpy()).max() <= near


def test_the_ensemble_in_triton_answers_as_the_checkpoint(client, run):
    model, by_torch = served(client, ENSEMBLE), load_model(run / "best.pt", Stage.SEGMENT)
    images = pictures()
    items = [{"IMAGE": image} for image in images]
    for image, found in zip(images, client.infer_many(model, items, ["LESION"]), strict=True):
        expected = by_torch(IMAGE=image)["LESION"]
        assert np.ptp(expected) > 80, "a flat map would agree with everything"
        assert np.abs(found["LESION"].astype(int) - expected).max() <= NEAR
    coarse = client.infer(served(client, STEPS[0], version="1"), {"IMAGE": images[0]}, ["LESION"])["LESION"]
    enhanced = client.infer(model, {"IMAGE": images[0]}, ["LESION"])["LESION"]
    assert np.abs(coarse.astype(int) - enhanced).max() > 20, "it is the last step that answers"


def test_the_worker_takes_the_ensemble_for_the_segment_stage(client, repository):
    model = served(client, ENSEMBLE)
    steps = (repository / ENSEMBLE / "1" / "steps.txt").read_bytes()
    assert (model.version, model.sha256) == ("1", hashlib.sha256(steps).hexdigest())
    image = pictures()[0]
    found = segment(image, client, model, SegmentParameters.of(model))
    assert found.mask.shape == image.shape[:2]


def test_two_versions_of_the_ensemble_serve_side_by_side(client, repository):
    image = {"IMAGE": pictures()[1]}
    first, second = served(client, ENSEMBLE), served(client, "segment_other")
    assert first.used != second.used
    lighter = client.infer(second, image, ["LESION"])["LESION"]
    newest = client.infer(served(client, STEPS[0], version="2"), image, ["LESION"])["LESION"]
    before = client.infer(served(client, STEPS[0], version="1"), image, ["LESION"])["LESION"]
    assert (lighter == newest).all(), "the version that is pinned runs"
    assert lighter.mean() > before.mean() + 10


def test_mask_cn_in_triton_keeps_the_classify_stages_contract_and_answers_as_the_checkpoint(client, run):
    model, image = served(client, "classify_mask_cn", Stage.CLASSIFY), pictures()[2]
    assert model.labels == ("melanoma", "nevus", "seborrheic_keratosis")
    lesion = np.zeros(image.shape[:2], np.uint8)
    lesion[40:110, 50:150] = 255
    given = {"IMAGE": image, "LESION": lesion}
    found = client.infer(model, given, ["PROBABILITIES", "EMBEDDING", "SALIENCY"])
    network = checkpoint.load(run / "best.pt").build().guide
    with torch.inference_mode():
        graph = mb_dcnn.ClassifyGraph(network).eval()
        expected = graph(*(torch.from_numpy(value)[None] for value in given.values()))
    np.testing.assert_allclose(found["PROBABILITIES"], expected[0][0], atol=1e-3)
    np.testing.assert_allclose(found["EMBEDDING"], expected[1][0], atol=2e-3)
    assert np.abs(found["SALIENCY"].astype(int) - expected[2][0].numpy()).max() <= NEAR
    assert np.linalg.norm(found["EMBEDDING"]) == pytest.approx(1, abs=1e-3)
