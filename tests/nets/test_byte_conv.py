"""Convolutions that learn to be computed in bytes: float32 until they do, then as the variant that is served."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import numpy_helper
from torch import nn

from dermbatch.phantoms.phantom import phantom
from lesionnets.graphs import enhance
from lesionnets.graphs.precision import to_int8
from lesionnets.nets.byte_conv import ByteConv2d, learn_bytes
from lesionnets.nets.enhance.espcn import Espcn


def test_it_is_an_ordinary_convolution_until_it_learns_bytes() -> None:
    torch.manual_seed(1)
    ours, plain, x = ByteConv2d(8, 8, 3), nn.Conv2d(8, 8, 3, padding=1), torch.rand(1, 8, 6, 6)
    ours.load_state_dict(plain.state_dict())  # weights of before have no ranges
    assert torch.equal(ours(x), plain(x))
    learn_bytes(nn.Sequential(ours))
    learnt = ours(x)
    assert 0 < (learnt - plain(x)).abs().max() < 0.03
    learnt.square().mean().backward()
    assert ours.weight.grad is not None
    assert ours.weight.grad.abs().min() > 0


def test_values_are_of_256_steps_and_ranges_stay_in_evaluation() -> None:
    torch.manual_seed(2)
    layer = ByteConv2d(8, 8, 3)
    learn_bytes(layer)
    given = layer(torch.rand(4, 8, 40, 40))
    assert len(given.unique()) <= 256
    low, high = layer.ranges[1]
    layer.eval()
    beyond = layer(9 * torch.rand(4, 8, 40, 40))
    assert torch.equal(layer.ranges[1], torch.stack([low, high]))
    step = (high - low) / 255
    assert low - step <= beyond.min()
    assert beyond.max() <= high + step


def test_a_network_gives_in_training_what_its_variant_gives_in_service() -> None:
    torch.manual_seed(3)
    network = Espcn(16, 2)
    for weight in (network.head.weight, network.body[1].second.weight):  # type: ignore[union-attr]
        nn.init.normal_(weight, std=0.08)  # type: ignore[arg-type]
    image = phantom(1, height=48, width=64).image
    planes = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255
    made = to_int8(enhance.build(network), [{"IMAGE": image[None]}])
    exact = network.eval()(planes)
    layers = [layer for layer in network.modules() if isinstance(layer, ByteConv2d)]
    for layer, found in zip(layers, ranges(made), strict=True):
        layer.ranges.copy_(torch.tensor(found))
    learn_bytes(network)
    with torch.inference_mode():
        learnt = network(planes)
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    (served,) = session.run(None, {"IMAGE": image[None]})

    def apart(values: torch.Tensor) -> float:
        picture = (values.clamp(0, 1) * 255).round()[0].permute(1, 2, 0).detach().numpy()
        return float(np.abs(picture - served[0]).mean())

    assert apart(learnt) < 0.1 < apart(exact)


def ranges(model: onnx.ModelProto) -> list[list[list[float]]]:
    """What goes in and what comes out of each convolution in bytes, in their order."""
    values = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    made = {name: node for node in model.graph.node for name in node.output}
    read = {name: node for node in model.graph.node if node.op_type == "QuantizeLinear" for name in node.input[:1]}

    def of(node: onnx.NodeProto | None) -> list[float]:
        if node is None:
            return [0.0, 0.0]
        step, zero = (float(values[name]) for name in node.input[1:3])
        return [-zero * step, (255 - zero) * step]

    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    before = [(node, made.get(node.input[0])) for node in convolutions]
    return [
        [of(given), of(read.get(node.output[0]))]
        for node, given in before
        if given is not None and given.op_type == "DequantizeLinear"
    ]
