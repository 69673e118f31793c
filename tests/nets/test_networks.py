"""One harness for all networks: whatever class in lesionnets.nets can be built without arguments is one.

Each is built small here, except for the number of its parameters, for which nothing is computed (the meta device).
"""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path

import onnxruntime
import pytest
import torch
from costs import count_parameters, multiply_adds
from network_sizes import CASES, Case
from torch import nn

from lesionnets import checkpoint, nets
from lesionnets.graphs.assembly import to_onnx
from lesionnets.lookup import modules_below


def networks() -> dict[str, type[nn.Module]]:
    """Classes of lesionnets.nets whose parameters all have defaults, by the names that checkpoints give them."""
    found = {}
    for own, whole in modules_below(nets).items():
        module = importlib.import_module(whole)
        for name, kind in vars(module).items():
            if not (inspect.isclass(kind) and issubclass(kind, nn.Module) and kind.__module__ == module.__name__):
                continue
            given = inspect.signature(kind).parameters.values()
            if all(parameter.default is not parameter.empty for parameter in given):
                found[f"{own}.{name}"] = kind
    return found


def inputs_of(case: Case, height: int, width: int, *, batch: int = 2) -> list[torch.Tensor]:
    torch.manual_seed(0)
    made = []
    for number, channels in enumerate(case.inputs):
        scale = case.given if number else 1.0
        values = torch.rand(batch, channels, max(int(height * scale), 1), max(int(width * scale), 1))
        made.append(values if channels == 3 else (values > 0.4).float())
    return made


def small(name: str) -> nn.Module:
    """A small network whose layers that start at zero are drawn: they would hide all before them."""
    torch.manual_seed(3)
    model = checkpoint.network(name, CASES[name].small)
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.05)
    return model.eval()


def outputs_of(model: nn.Module, inputs: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    result = model(*inputs)
    return tuple(result) if isinstance(result, tuple) else (result,)


OF_PATTERNS = {"bilinear_vgg.BilinearVgg", "lite_patterns.LitePatterns"}
"""Those of discovered patterns, whose places and weights tests/nets/test_patterns.py looks into."""


def test_no_network_is_forgotten() -> None:
    of_one_shot = {"extractors.Lite", "extractors.Vgg", "one_shot.OneShot"}  # tests/nets/test_one_shot.py
    of_bootstrapping = {"mb_dcnn_lite.LiteSN"}  # takes features: tests/nets/test_bootstrapping.py
    assert set(networks()) == set(CASES) | of_one_shot | of_bootstrapping | OF_PATTERNS


@pytest.mark.parametrize("name", CASES)
def test_shapes_at_even_and_odd_resolutions(name: str) -> None:
    model, case = small(name), CASES[name]
    for height, width in case.sides:
        with torch.inference_mode():
            found = outputs_of(model, inputs_of(case, height, width))
        assert [tuple(values.shape) for values in found] == [(2, *shape) for shape in case.outputs(height, width)]
        assert all(values.isfinite().all() for values in found)


@pytest.mark.parametrize("name", CASES)
def test_every_parameter_gets_a_gradient(name: str) -> None:
    # In evaluation mode: batch norm over a batch would take biases before it out, and dropout whole channels.
    model, case = small(name), CASES[name]
    sum(values.square().sum() for values in outputs_of(model, inputs_of(case, *case.sides[0]))).backward()  # type: ignore[union-attr]
    missing = [key for key, value in model.named_parameters() if value.grad is None or not value.grad.any()]
    assert missing == []


@pytest.mark.parametrize("name", CASES)
def test_training_mode_takes_a_step(name: str) -> None:
    model, case = small(name).train(), CASES[name]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    outputs = outputs_of(model, inputs_of(case, *case.sides[0]))
    sum(values.square().mean() for values in outputs).backward()  # type: ignore[union-attr]
    torch.optim.SGD(model.parameters(), lr=1e-3).step()
    state = model.state_dict()
    assert all(value.isfinite().all() for value in state.values())
    assert any((before[key] != value).any() for key, value in state.items())


@pytest.mark.parametrize("name", CASES)
def test_sixteen_bits_and_channels_last_make_little_difference(name: str) -> None:
    model, case = small(name), CASES[name]
    inputs = inputs_of(case, *case.sides[0])
    with torch.inference_mode():
        expected = outputs_of(model, inputs)
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        with torch.autocast("cpu", torch.bfloat16):
            found = outputs_of(model, [values.to(memory_format=torch.channels_last) for values in inputs])
    for ours, theirs in zip(expected, found, strict=True):
        # bfloat16 has eight bits; errors of many layers add up.
        assert (theirs.float() - ours).abs().mean() <= 0.05 * ours.abs().mean().clamp(min=1e-3)


@pytest.mark.parametrize("name", CASES)
def test_a_saved_network_is_the_same_network(name: str, tmp_path: Path) -> None:
    model, case = small(name), CASES[name]
    path = tmp_path / "run" / "best.pt"
    figures = {"jaccard": 0.5}
    checkpoint.save(path, recipe="r", network=name, hyper=case.small, state=model.state_dict(), figures=figures)
    again = checkpoint.load(path, recipe="r")
    assert (again.hyper, again.figures) == (case.small, figures)
    with torch.inference_mode():
        inputs = inputs_of(case, *case.sides[0])
        first, second = outputs_of(model, inputs), outputs_of(again.build(), inputs)
    torch.testing.assert_close(first, second, rtol=0, atol=0)


@pytest.mark.parametrize("name", CASES)
def test_onnx_runtime_agrees_with_pytorch(name: str) -> None:
    model, case = small(name), CASES[name]
    height, width = case.sides[0]
    inputs = inputs_of(case, height, width)
    with torch.inference_mode():
        expected = outputs_of(model, inputs)
    names = [f"in{number}" for number in range(len(inputs))]
    outputs = [f"out{number}" for number in range(len(expected))]
    graph = to_onnx(model, inputs, inputs=names, outputs=outputs, free=[{} for _ in inputs])
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(outputs, dict(zip(names, (values.numpy() for values in inputs), strict=True)))
    for ours, theirs in zip(expected, found, strict=True):
        scale = ours.abs().max().clamp(min=1).item()
        torch.testing.assert_close(torch.from_numpy(theirs), ours, rtol=1e-3, atol=1e-4 * scale)


@pytest.mark.parametrize("name", CASES)
def test_at_full_width_there_are_the_papers_parameters(name: str) -> None:
    with torch.device("meta"):
        assert count_parameters(networks()[name]()) == CASES[name].parameters


def documented() -> dict[str, list[str]]:
    """Rows of the table of networks in docs/papers.md, by the network's name."""
    text = (Path(__file__).parents[2] / "docs/papers.md").read_text()
    section = text.split("\n## Networks\n")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if "|" in line]
    return {row[1].strip("`"): row for row in rows[2:]}


PLAIN = {
    "doubler.Doubler",
    "efficient_lite.EfficientLite",
    "espcn.Espcn",
    "lite.LiteClassifier",
    "mobilenet.LesionClassifier",
    "mobilenet.MobileNetV2",
    "plain.PlainEnhancer",
    "purifier.Purifier",
    "unet.UNet",
    "unet_lite.UNetLite",
}
"""What ships or did, is to, and their backbones: in the table of figures."""


def test_the_table_of_networks_has_all_of_them() -> None:
    assert set(documented()) == (set(CASES) - PLAIN) | OF_PATTERNS


@pytest.mark.parametrize("name", sorted(set(CASES) - PLAIN))
def test_the_table_of_networks_is_true(name: str) -> None:
    *_, parameters, size, operations = documented()[name]
    case = CASES[name]
    assert parameters == f"{case.parameters / 1e6:.2f} M"
    assert size == str(case.paper)
    sides = [case.paper, *(int(case.paper * case.given) for _ in case.inputs[1:])]
    with torch.device("meta"):
        model = networks()[name]().eval()
    shapes = [(1, channels, side, side) for channels, side in zip(case.inputs, sides, strict=True)]
    assert operations == f"{multiply_adds(model, shapes) / 1e9:.1f} G"
