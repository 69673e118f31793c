"""Models asked for against those that a real Triton has, and a user's own against what could run them."""

import hashlib
import shutil

import pytest

from dermbatch.errors import InferenceUnavailable, UsageError
from dermbatch.models.repository import default_model_repository, served_models
from dermbatch.records.asked import ModelChoice
from dermbatch.settings import Engine, Settings, TritonSettings
from dermbatch.stages import Stage
from orchestrator.planning.models import Offer, check, pinned, served
from orchestrator.stack.ports import free_ports
from tests.integration.digests import copy_with_digests


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


def emptied(folder):
    shutil.rmtree(folder / "1")
    shutil.rmtree(folder / "2")


def renamed(folder):
    config = folder / "config.pbtxt"
    config.write_text(config.read_text().replace('name: "segment_tiny"', 'name: "purify_tiny"'))


def exchanged(folder):
    shutil.copy(folder / "1" / "model.onnx", folder / "2" / "model.onnx")


def lost(folder):
    (folder / "2" / "model.onnx").unlink()


def named(folder, body):
    """Put a file into version 2, with its digest."""
    old = hashlib.sha256((folder / "2" / "model.onnx").read_bytes()).hexdigest()
    (folder / "2" / "model.onnx").write_bytes(body)
    config = folder / "config.pbtxt"
    config.write_text(config.read_text().replace(old, hashlib.sha256(body).hexdigest()))


def text(folder):
    named(folder, b"no model")


def of_another_stage(folder):
    named(folder, (folder.parent / "classify_tiny" / "1" / "model.onnx").read_bytes())


def endless(folder):
    with (folder / "config.pbtxt").open("a") as file:
        file.write('parameters { key: "threshold" value: { string_value: "inf" } }\n')


DAMAGE = {
    emptied: (r"segment_tiny has no version in .*; its first one is segment_tiny/1/model\.onnx", True),
    renamed: ("names the model 'purify_tiny', but its folder is 'segment_tiny': give both the same name", True),
    exchanged: (
        r"version 2 has a file whose digest differs from its parameter 'sha256\.2': .* has [0-9a-f]{64}",
        True,
    ),
    endless: ("has 'inf' as parameter 'threshold', which is not a number", True),
    lost: (r"segment_tiny/2/model\.onnx cannot be read: No such file", False),
    text: ("version 2 cannot be loaded", False),
    of_another_stage: (
        "other tensors in its file .* takes IMAGE TYPE_UINT8, LESION TYPE_UINT8 and .*; config.pbtxt says IMAGE",
        False,
    ),
}
"""What is wrong with a model, what is said of it, and whether also of one for Triton, which looks for itself."""


@pytest.mark.parametrize(("damage", "engine"), [(each, engine) for each in DAMAGE for engine in Engine])
def test_a_model_that_no_image_could_pass_is_refused_before_anything_is_planned(
    damage, engine, tiny_repository, tmp_path
):
    repository = copy_with_digests(tiny_repository, tmp_path / "models")
    asked = {Stage.SEGMENT: ModelChoice(name="segment_tiny")}
    assert Offer.of_repository(repository, engine).check(asked)[Stage.SEGMENT].version == "2"
    damage(repository / "segment_tiny")
    told, always = DAMAGE[damage]
    if always or engine is Engine.ONNXRUNTIME:
        with pytest.raises(UsageError, match=f"^segment: .*{told}"):
            Offer.of_repository(repository, engine).check(asked)
    else:
        Offer.of_repository(repository, engine).check(asked)


def test_only_numbers_are_versions(tiny_repository, tmp_path):
    repository = copy_with_digests(tiny_repository, tmp_path / "models")
    for name in ("\u00b2", "\u0663", "backup", "1.old"):
        (repository / "segment_tiny" / name).mkdir()
    assert served_models(repository)["segment_tiny"] == ["1", "2"]


@pytest.mark.parametrize("engine", list(Engine))
def test_an_enhance_model_without_its_doubler_is_refused_before_anything_is_planned(engine, tmp_path):
    shipped, asked = default_model_repository(), {Stage.ENHANCE: ModelChoice(name="enhance_espcn_int8")}
    for name in ("enhance_espcn_int8", "enhance_double_int8"):
        shutil.copytree(shipped / name, tmp_path / name)
    assert Offer.of_repository(tmp_path, engine).check(asked)[Stage.ENHANCE].version == "1"
    (tmp_path / "enhance_double_int8/1/model.onnx").write_bytes(b"another file")
    with pytest.raises(UsageError, match="enhance: model enhance_double_int8 version 1 has a file whose digest"):
        Offer.of_repository(tmp_path, engine).check(asked)
    shutil.rmtree(tmp_path / "enhance_double_int8")
    with pytest.raises(UsageError, match="needs version 1 of its doubler enhance_double_int8, which is not in"):
        Offer.of_repository(tmp_path, engine).check(asked)
