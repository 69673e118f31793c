"""Models asked for against those that a real Triton has."""

import pytest

from dermbatch.errors import InferenceUnavailable, UsageError
from dermbatch.models.repository import served_models
from dermbatch.records.asked import ModelChoice
from dermbatch.settings import Engine, Settings, TritonSettings
from dermbatch.stages import Stage
from orchestrator.planning.models import Offer, check, pinned, served
from orchestrator.stack.ports import free_ports


def test_triton_and_its_repository_say_the_same(triton_settings, tiny_repository):
    models = served(triton_settings)
    assert models["segment_tiny"] == ["1", "2"]
    assert models == served_models(tiny_repository)


def test_what_triton_has_is_taken_and_what_it_lacks_is_refused(triton_settings):
    models = served(triton_settings)
    asked = {
        Stage.PURIFY: ModelChoice(name="purify_tiny"),
        Stage.SEGMENT: ModelChoice(name="segment_tiny", version="1"),
    }
    check(asked, models, "Triton")
    with pytest.raises(UsageError, match=r"^segment: no model 'unet' in Triton; there are .*segment_tiny"):
        check({Stage.SEGMENT: ModelChoice(name="unet")}, models, "Triton")
    with pytest.raises(UsageError, match=r"^segment: segment_tiny has versions 1, 2 in Triton, not '9'$"):
        check({Stage.SEGMENT: ModelChoice(name="segment_tiny", version="9")}, models, "Triton")


def test_the_newest_version_is_pinned_where_none_is_asked_for(triton_settings):
    asked = {
        Stage.PURIFY: ModelChoice(name="segment_tiny"),
        Stage.SEGMENT: ModelChoice(name="segment_tiny", version="1"),
    }
    assert {stage: model.version for stage, model in pinned(asked, served(triton_settings)).items()} == {
        Stage.PURIFY: "2",
        Stage.SEGMENT: "1",
    }


def test_a_triton_that_is_not_there_is_named():
    url = f"127.0.0.1:{free_ports(1)[0]}"
    with pytest.raises(InferenceUnavailable, match=url):
        served(TritonSettings(url=url), timeout=2)


@pytest.mark.parametrize("where", ["onnxruntime", "triton", "served"])
def test_a_model_of_another_stage_is_refused_before_anything_is_planned(where, digested_repository, start_triton):
    if where == "served":
        offer = Offer.known(Settings(triton=start_triton(digested_repository).settings))
    else:
        offer = Offer.of_repository(digested_repository, Engine(where))
    asked = {Stage.SEGMENT: ModelChoice(name="segment_tiny", version="1")}
    assert offer.check(asked) == asked
    with pytest.raises(UsageError, match=r"^purify: model segment_tiny .*PURIFIED"):
        offer.check({Stage.PURIFY: ModelChoice(name="segment_tiny")})


def test_what_triton_may_complete_is_left_to_it(tmp_path):
    folder = tmp_path / "bare"
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text('backend: "onnxruntime"')
    asked = {Stage.SEGMENT: ModelChoice(name="bare")}
    assert Offer.of_repository(tmp_path, Engine.TRITON).check(asked)[Stage.SEGMENT].version == "1"
    with pytest.raises(UsageError, match=r"^segment: model bare"):
        Offer.of_repository(tmp_path, Engine.ONNXRUNTIME).check(asked)
