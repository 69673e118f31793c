"""What `lesionnets export` writes is a model repository that Triton and the worker understand."""

from __future__ import annotations

import hashlib
from pathlib import Path

import onnx
import pytest
import torch

from dermbatch.errors import UsageError
from dermbatch.models.configuration import read_config
from dermbatch.models.repository import file_digest
from lesionnets import checkpoint, export
from lesionnets.evaluation.figures.intervals import Figure
from lesionnets.graphs import enhance
from lesionnets.model_card import figure_rows
from lesionnets.nets.enhance.doubler import Doubler
from lesionnets.nets.enhance.espcn import Espcn
from lesionnets.nets.purify.purifier import Purifier

HYPER = {"channels": 4, "blocks": 1}


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "runs" / "best.pt"
    checkpoint.save(
        path,
        recipe="enhance_espcn",
        network="espcn.Espcn",
        hyper=HYPER,
        state=Espcn(**HYPER).state_dict(),
        figures={"psnr_gain": 0.5, "psnr_gain_low": 0.4, "psnr_gain_high": 0.6},
    )
    return path


def test_a_version_is_written_with_all_that_belongs_to_it(trained: Path, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    model_file = export.export(trained, repository)
    folder = repository / "enhance_espcn"
    assert model_file == folder / "1" / "model.onnx"
    onnx.checker.check_model(onnx.load(model_file), full_check=True)
    config = read_config(folder)
    assert config.name == folder.name
    assert config.backend == "onnxruntime"
    assert config.max_batch_size == 4
    assert config.version_policy.WhichOneof("policy_choice") == "all"
    assert [(t.name, list(t.dims)) for t in config.input] == [("IMAGE", [-1, -1, 3])]
    assert [(t.name, list(t.dims)) for t in config.output] == [("ENHANCED", [-1, -1, 3])]
    (warmup,) = config.model_warmup
    assert warmup.inputs["IMAGE"].zero_data
    assert all(side > 0 for side in warmup.inputs["IMAGE"].dims)
    told = {name: value.string_value for name, value in config.parameters.items()}
    assert told == {
        "stage": "enhance",
        "scale": "4",
        "tile": "160",
        "overlap": str(2 * Espcn(**HYPER).radius),
        "intra_op_thread_count": "1",
        "sha256.1": hashlib.sha256(model_file.read_bytes()).hexdigest(),
    }


def test_a_doubler_is_exported_first_and_its_variant_goes_with_the_variant(trained: Path, tmp_path: Path) -> None:
    torch.manual_seed(2)
    network, repository = Doubler(8, 1), tmp_path / "repository"
    path = tmp_path / "double.pt"
    hyper = {"channels": 8, "blocks": 1}
    state = network.state_dict()
    checkpoint.save(path, recipe="enhance_double", network="doubler.Doubler", hyper=hyper, state=state, figures={})
    with pytest.raises(UsageError, match=r"no version 1 of enhance_double; export that first"):
        export.export(trained, repository, doubler="enhance_double")
    small = export.export(path, repository)
    told = {name: value.string_value for name, value in read_config(small.parents[1]).parameters.items()}
    assert (told["scale"], told["grid"], told["tile"]) == ("2", "2", "320")
    large = export.export(trained, repository, doubler="enhance_double")
    assert read_config(large.parents[1]).parameters["doubler"].string_value == "enhance_double"
    for file, into, expected in (
        (large, tmp_path / "without_it", "enhance_double"),
        (small, repository, ""),
        (large, repository, "enhance_double_int8"),
    ):
        made = export.write_variant(file, onnx.load(file), into, "int8")
        assert read_config(made.parents[1]).parameters["doubler"].string_value == expected


def test_the_card_says_what_it_is_for_and_how_good(trained: Path, tmp_path: Path) -> None:
    export.export(trained, tmp_path)
    card = (tmp_path / "enhance_espcn" / "MODEL_CARD.md").read_text()
    for needed in ("Not a diagnosis", "CC0", "| psnr gain | 0.500 [0.400, 0.600] |", "channels 4", "## Limits"):
        assert needed in card


def test_measured_figures_take_the_place_of_the_checkpoints(trained: Path, tmp_path: Path) -> None:
    export.export(trained, tmp_path, figures={"jaccard": Figure(0.78, 0.76, 0.8)})
    card = (tmp_path / "enhance_espcn" / "MODEL_CARD.md").read_text()
    assert "| jaccard | 0.780 [0.760, 0.800] |" in card
    assert "psnr" not in card


def test_figures_without_an_interval_stand_alone() -> None:
    assert figure_rows({"jaccard": 0.8, "auc_low": 0.1}) == ["| jaccard | 0.800 |", "| auc low | 0.100 |"]


def test_the_next_version_is_the_next_number_and_digests_stay(trained: Path, tmp_path: Path) -> None:
    first = export.export(trained, tmp_path, version="9")
    second = export.export(trained, tmp_path)
    assert second.parent.name == "10"
    assert export.versions(tmp_path / "enhance_espcn") == ["9", "10"]
    told = read_config(tmp_path / "enhance_espcn").parameters
    assert told["sha256.9"].string_value == file_digest(first)
    assert told["sha256.10"].string_value == file_digest(second)


def test_the_same_checkpoint_gives_the_same_file(trained: Path, tmp_path: Path) -> None:
    one, other = (export.export(trained, tmp_path / name).read_bytes() for name in ("a", "b"))
    assert one == other


@pytest.mark.parametrize("version", ["0", "-1", "new", "1.5"])
def test_a_version_that_triton_does_not_know_is_refused(trained: Path, tmp_path: Path, version: str) -> None:
    with pytest.raises(UsageError, match="whole number"):
        export.export(trained, tmp_path, version=version)


def test_a_recipe_of_no_stage_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "best.pt"
    checkpoint.save(path, recipe="dream_unet", network="espcn.Espcn", hyper={}, state={}, figures={})
    with pytest.raises(UsageError, match="dream_unet"):
        export.export(path, tmp_path)


def test_a_checkpoint_of_another_stage_is_refused(tmp_path: Path) -> None:
    path, state = tmp_path / "best.pt", Purifier((4, 4)).state_dict()
    checkpoint.save(
        path,
        recipe="enhance_espcn",
        network="purifier.Purifier",
        hyper={"widths": [4, 4]},
        state=state,
        figures={},
    )
    with pytest.raises(UsageError, match="Purifier"):
        export.export(path, tmp_path)


def test_large_models_are_stored_in_halves_and_too_large_ones_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = Espcn(24, 2)
    graph, contract = enhance.build(network), enhance.contract(network)
    whole = export.write_model(tmp_path / "whole", "1", graph, export.Stage.ENHANCE, contract)
    monkeypatch.setattr(export, "HALVE_ABOVE", 100_000)
    half = export.write_model(tmp_path / "half", "1", graph, export.Stage.ENHANCE, contract)
    assert half.stat().st_size < 0.7 * whole.stat().st_size
    monkeypatch.setattr(export, "MOST_BYTES", 10_000)
    with pytest.raises(UsageError, match="narrower"):
        export.write_model(tmp_path / "most", "1", graph, export.Stage.ENHANCE, contract)
