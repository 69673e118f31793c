"""Which engine `run` takes unless told."""

import shutil

import pytest

from dermbatch.models.repository import default_model_repository
from dermbatch.records.asked import ModelChoice
from dermbatch.settings import Engine, Settings
from orchestrator.cli.commands.once import _fastest
from orchestrator.planning import submission

STAGES = ["segment"]


@pytest.fixture
def repository(tmp_path):
    copy = shutil.copytree(default_model_repository(), tmp_path / "models")
    (copy / "pair" / "1").mkdir(parents=True)
    (copy / "pair" / "config.pbtxt").write_text('name: "pair" platform: "ensemble"')
    return copy


def order(**models):
    chosen = {stage: ModelChoice(name=name) for stage, name in models.items()}
    return submission.order(Settings(), STAGES, chosen)


def test_workers_run_models_themselves_where_they_can_run_all_that_are_asked_for(repository):
    assert _fastest(Settings(), repository, order()) is Engine.ONNXRUNTIME
    assert _fastest(Settings(), repository, order(segment="pair")) is Engine.TRITON
    assert _fastest(Settings(), repository, order(classify="pair")) is Engine.ONNXRUNTIME  # not among the stages


def test_what_the_settings_say_stays(repository):
    assert _fastest(Settings(inference={"engine": "triton"}), repository, order()) is None
