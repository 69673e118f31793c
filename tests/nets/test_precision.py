"""Variants of a graph in int8 and float16: the same answers, nearly; the same contract; a model of their own."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from quantised import int8_weights

from dermbatch.errors import UsageError
from dermbatch.models.configuration import read_config
from dermbatch.models.repository import file_digest
from dermbatch.phantoms.phantom import phantom
from dermbatch.stages import Stage
from lesionnets import cli
from lesionnets.evaluation.models.predictors import default_model, in_float32, load_model
from lesionnets.export import export
from lesionnets.graphs import enhance
from lesionnets.graphs.assembly import halve_weights
from lesionnets.graphs.precision import Inputs, to_float16, to_int8, whole_weights, wide_convolutions
from lesionnets.nets.enhance.doubler import Doubler
from lesionnets.nets.enhance.espcn import Espcn
from tests.checkpoints import decided_unet


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small segmenter with random weights in a model repository."""
    folder = tmp_path_factory.mktemp("repository")
    return export(decided_unet(folder, width=0.25, seed=3), folder / "models")


def inputs(count: int) -> list[Inputs]:
    return [{"IMAGE": phantom(seed, height=96, width=128).image[None]} for seed in range(count)]


def answer(model: onnx.ModelProto, given: Inputs) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, dict(given))[0]).astype(float)


def test_answers_hardly_change_and_operators_stay_plain(model_file: Path) -> None:
    graph, given = onnx.load(model_file), inputs(4)
    before = answer(graph, given[3])
    for made, most in ((to_int8(graph, given[:3]), 8.0), (to_float16(graph), 0.5)):
        after = answer(made, given[3])
        assert after.shape == before.shape
        assert 0 < np.abs(after - before).mean() < most
        assert {node.domain for node in made.graph.node} == {""}
        assert max(entry.version for entry in made.opset_import) <= 18
        assert list(made.graph.input) == list(graph.graph.input)
        assert list(made.graph.output) == list(graph.graph.output)
        two = {"IMAGE": np.concatenate([given[0]["IMAGE"], given[3]["IMAGE"]])[:, :90, :77]}
        assert answer(made, two).shape[0] == 2
    types = {tensor.data_type for tensor in to_int8(graph, given[:3]).graph.initializer}
    assert onnx.TensorProto.INT8 in types
    assert wide_convolutions(graph)


def test_two_products_fit_into_16_bits(model_file: Path) -> None:
    # Processors without VNNI add two up in 16 bits, and saturate: the model would give other answers there.
    weights = int8_weights(to_int8(onnx.load(model_file), inputs(2)))
    assert weights
    for values in weights:
        assert np.abs(values).max() > 32
        assert 2 * 255 * np.abs(values).max() < 2**15


def test_rare_values_can_be_left_out_of_ranges(model_file: Path) -> None:
    graph, given = onnx.load(model_file), inputs(2)

    def steps(**asked: float) -> np.ndarray:
        made = to_int8(graph, given, **asked)
        scales = {one.name: numpy_helper.to_array(one) for one in made.graph.initializer}
        return np.array([scales[node.input[1]] for node in made.graph.node if node.op_type == "QuantizeLinear"])

    whole, most = steps(), steps(percentile=99.0)
    assert len(whole) == len(most) > 0
    assert np.all(most < whole * 1.01)
    assert np.median(most / whole) < 0.9


def test_what_is_added_to_a_convolution_in_bytes_was_not_rounded_for_one() -> None:
    torch.manual_seed(5)
    network = Espcn(16, 2)
    torch.nn.init.normal_(network.head.weight, std=0.05)
    graph, given = enhance.build(network), inputs(2)
    made = to_int8(graph, given)
    by = {name: node for node in made.graph.node for name in node.output}
    added = [by[name] for node in made.graph.node if node.op_type == "Add" for name in node.input]
    in_bytes = [by[by[node.input[0]].input[0]].op_type for node in added if node.op_type == "DequantizeLinear"]
    assert in_bytes == ["Conv"] * 3
    assert np.abs(answer(made, given[0]) - answer(graph, given[0])).mean() < 1


def test_interpolation_within_a_doubler_stays_in_float32() -> None:
    torch.manual_seed(7)
    network = Doubler(16, 1)
    torch.nn.init.normal_(network.head.weight, std=0.02)
    graph, given = enhance.build(network), inputs(2)
    made = to_int8(graph, given)
    exact = {one.name for one in made.graph.initializer if one.data_type == onnx.TensorProto.FLOAT}
    kept = [node for node in made.graph.node if node.op_type == "Conv" and node.input[1] in exact]
    assert [next(one.i for one in node.attribute if one.name == "group") for node in kept] == [3]
    assert np.abs(answer(made, given[0]) - answer(graph, given[0])).mean() < 1


def test_the_last_convolutions_can_stay_in_float32(model_file: Path) -> None:
    graph, given = onnx.load(model_file), inputs(2)
    wide = wide_convolutions(graph)

    def in_float32(**spared: int) -> int:
        made = to_int8(graph, given, **spared)
        weights = {one.name for one in made.graph.initializer if one.data_type == onnx.TensorProto.FLOAT}
        return sum(node.op_type == "Conv" and node.input[1] in weights for node in made.graph.node)

    assert in_float32(spare=2) == in_float32() + 2
    for spare in (len(wide), len(wide) + 1):
        with pytest.raises(UsageError, match="spare fewer than all"):
            to_int8(graph, given, spare=spare)


def test_halved_weights_are_made_whole_again(model_file: Path) -> None:
    graph, given = onnx.load(model_file), inputs(1)[0]
    halved = halve_weights(graph, least=1)
    whole = whole_weights(halved)
    assert not any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in whole.graph.initializer)
    assert np.array_equal(answer(whole, given), answer(halved, given))


def test_a_graph_without_wide_convolutions_or_images_is_refused(model_file: Path) -> None:
    graph = onnx.load(model_file)
    with pytest.raises(UsageError, match="no images to calibrate with"):
        to_int8(graph, [])
    bare = onnx.ModelProto()
    bare.CopyFrom(graph)
    kept = [node for node in graph.graph.node if node.op_type != "Conv"]
    del bare.graph.node[:]
    bare.graph.node.extend(kept)
    for made in (lambda: to_int8(bare, inputs(1)), lambda: to_float16(bare)):
        with pytest.raises(UsageError, match="no convolution"):
            made()


@pytest.mark.parametrize("words", [(), ("--float16",)])
def test_the_command_writes_a_model_beside_it(
    model_file: Path,
    words: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for seed in range(3):
        cv2.imwrite(str(tmp_path / f"{seed}.png"), phantom(seed, height=96, width=128).image[:, :, ::-1])
    where = ("--images", str(tmp_path), "--repository", str(tmp_path / "made"), "--model", str(model_file))
    monkeypatch.setattr(sys, "argv", ["lesionnets", "precision", "segment", *where, "--count", "2", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    made = Path(capsys.readouterr().out.strip())
    name = "segment_unet_" + ("float16" if words else "int8")
    assert made == tmp_path / "made" / name / "1" / "model.onnx"
    config = read_config(made.parents[1])
    assert config.name == name
    assert config.parameters["sha256.1"].string_value == file_digest(made)
    assert load_model(made, Stage.SEGMENT).parameters["stage"] == "segment"
    card, text = made.parents[1] / "MODEL_CARD.md", (made.parents[1] / "MODEL_CARD.md").read_text()
    assert "Computed in" in text
    # Once more: the same content leaves a card that was added to since, other content is refused.
    card.write_text(f"{text}Measured.\n")
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    assert card.read_text() == f"{text}Measured.\n"
    made.write_bytes(b"of other images")
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert "holds another variant already" in capsys.readouterr().err
    assert made.read_bytes() == b"of other images"


@pytest.mark.parametrize("words", [("--spare", "1"), ("--percentile", "99.9")])
def test_what_int8_alone_takes_is_refused_with_float16(
    model_file: Path, words: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = ("--images", str(tmp_path), "--repository", str(tmp_path / "made"), "--model", str(model_file))
    monkeypatch.setattr(sys, "argv", ["lesionnets", "precision", "segment", *where, "--float16", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("stage", list(Stage))
def test_a_variant_is_made_of_the_model_in_float32(stage: Stage) -> None:
    made_of = in_float32(Path(default_model(stage)))
    assert made_of.is_file()
    assert not any(one.data_type == onnx.TensorProto.INT8 for one in onnx.load(made_of).graph.initializer)
