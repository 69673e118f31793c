from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import SecretStr

import orchestrator
from dermbatch.models.repository import default_model_repository, for_onnx_runtime, served_models
from dermbatch.records.asked import ModelChoice
from dermbatch.settings import Settings, StoreSettings
from dermbatch.stages import Stage
from orchestrator.stack.environment import base_environment, plain, settings_environment

TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\x00"), min_size=1, max_size=20)


@hypothesis_settings(max_examples=25)  # each builds all settings twice
@given(
    secret=TEXT,
    bucket=TEXT,
    version=st.none() | st.just("3"),
    concurrency=st.integers(1, 99),
    lease=st.floats(0.1, 99),
)
def test_a_program_builds_the_same_settings_from_its_environment(secret, bucket, version, concurrency, lease):
    asked = Settings()
    asked = asked.model_copy(
        update={
            "store": StoreSettings(bucket=bucket, secret_access_key=SecretStr(secret), access_key_id="me"),
            "worker": asked.worker.model_copy(update={"concurrency": 7}),
            "ledger": asked.ledger.model_copy(update={"lease": lease}),
            "models": {stage: ModelChoice(name=f"my_{stage}", version=version) for stage in Stage},
        }
    )
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings_environment(asked).items():
            patch.setenv(name, value)
        assert Settings() == asked
    assert Settings(**plain(asked)) == asked


def test_settings_of_this_process_do_not_reach_the_parts_by_the_back_door():
    env = base_environment(
        {"DERMBATCH_REDIS__URL": "redis://elsewhere", "HOME": "/home/me", "NO_PROXY": "example.org"}
    )
    assert "DERMBATCH_REDIS__URL" not in env
    assert env["HOME"] == "/home/me"
    assert env["NO_PROXY"] == "example.org,127.0.0.1,localhost"
    assert env["no_proxy"] == "127.0.0.1,localhost"


def test_a_checkout_is_on_the_import_path_of_the_parts_wherever_they_run():
    env = base_environment({"PYTHONPATH": "/mine"})
    assert env["PYTHONPATH"].split(":") == [str(Path(orchestrator.__file__).parent.parent), "/mine"]


def test_models_of_a_repository_are_listed_with_their_versions_in_numeric_order(tmp_path):
    for version in ("10", "9", "notes"):
        (tmp_path / "segment" / version).mkdir(parents=True)
    (tmp_path / "segment" / "config.pbtxt").touch()
    (tmp_path / "no_model").mkdir()
    assert served_models(tmp_path) == {"segment": ["9", "10"]}


def test_onnx_runtime_runs_models_of_its_own_backend_only(tmp_path):
    configs = {
        "named": 'name: "named" backend: "onnxruntime"',
        "platform": 'platform : "onnxruntime_onnx"\n',
        "ensemble": 'platform: "ensemble" ensemble_scheduling { }',
        "remark": '# not of backend: "onnxruntime"\nbackend: "python"',
    }
    for name, config in configs.items():
        (tmp_path / name / "1").mkdir(parents=True)
        (tmp_path / name / "config.pbtxt").write_text(config)
    assert for_onnx_runtime(tmp_path) == {"named": ["1"], "platform": ["1"]}
    assert for_onnx_runtime(default_model_repository()) == served_models(default_model_repository())
