import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from dermbatch.errors import ModelContractError
from dermbatch.models.contracts import CONTRACTS
from dermbatch.models.served import describe
from dermbatch.stages import Stage

SEGMENT = """
name: "unet" max_batch_size: 4
input [ { name: "IMAGE" data_type: TYPE_UINT8 dims: [ -1, -1, 3 ] } ]
output [ { name: "LESION" data_type: TYPE_UINT8 dims: [ -1, -1 ] } ]
parameters { key: "threshold" value: { string_value: "0.4" } }
parameters { key: "sha256.1" value: { string_value: "aa" } }
parameters { key: "sha256.2" value: { string_value: "bb" } }
"""
CLASSIFY = """
name: "net" max_batch_size: 0
input [ { name: "IMAGE" data_type: TYPE_UINT8 dims: [ 224, 224, 3 ] },
        { name: "LESION" data_type: TYPE_UINT8 dims: [ 224, 224 ] } ]
output [ { name: "PROBABILITIES" data_type: TYPE_FP32 dims: [ 3 ] },
         { name: "EMBEDDING" data_type: TYPE_FP32 dims: [ 1280 ] },
         { name: "SALIENCY" data_type: TYPE_UINT8 dims: [ 7, 7 ] } ]
parameters { key: "labels" value: { string_value: "melanoma, nevus,seborrheic_keratosis" } }
parameters { key: "sha256.1" value: { string_value: "aa" } }
"""


def config(text):
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def test_a_model_is_what_its_configuration_says():
    model = describe(Stage.SEGMENT, "2", config(SEGMENT))
    assert (model.name, model.version, model.sha256, model.max_batch) == ("unet", "2", "bb", 4)
    assert model.image_size == (-1, -1)
    assert model.number("threshold", 0.5) == 0.4
    assert model.number("long_side", 1024) == 1024
    assert model.used.sha256 == "bb"


def test_a_classifier_names_its_classes():
    model = describe(Stage.CLASSIFY, "1", config(CLASSIFY))
    assert model.labels == ("melanoma", "nevus", "seborrheic_keratosis")
    assert model.image_size == (224, 224)


def test_a_model_that_answers_in_streams_is_refused():
    with pytest.raises(ModelContractError, match="answers in streams"):
        describe(Stage.SEGMENT, "1", config(SEGMENT + "model_transaction_policy { decoupled: true }"))


def test_an_optional_tensor_is_checked_where_it_is_there():
    border = 'output [ { name: "BORDER" data_type: TYPE_%s dims: [ -1, -1 ] } ]'
    assert describe(Stage.SEGMENT, "1", config(SEGMENT + border % "UINT8")).shapes["BORDER"] == (-1, -1)
    with pytest.raises(ModelContractError, match="BORDER as TYPE_FP32"):
        describe(Stage.SEGMENT, "1", config(SEGMENT + border % "FP32"))


@pytest.mark.parametrize(
    ("stage", "text", "complaint"),
    [
        (Stage.PURIFY, SEGMENT, "cannot serve purify: it has no tensor PURIFIED"),
        (Stage.SEGMENT, CLASSIFY, "cannot serve segment: it has no tensor|wants LESION as well"),
        (Stage.SEGMENT, SEGMENT.replace("UINT8", "FP32", 1), "takes IMAGE as TYPE_FP32, not as uint8"),
        (
            Stage.SEGMENT,
            SEGMENT.replace("-1, -1, 3", "3, -1, -1"),
            r"IMAGE of shape \[3, -1, -1\], not \[any, any, 3\]",
        ),
        (Stage.SEGMENT, SEGMENT.replace("-1, -1 ]", "-1 ]"), r"LESION of shape \[-1\]"),
        (Stage.SEGMENT, SEGMENT.replace('"sha256.2"', '"other"'), "no file digest.*'sha256.2'"),
        (
            Stage.SEGMENT,
            SEGMENT + 'input [ { name: "AGE" data_type: TYPE_FP32 dims: [ 1 ] } ]',
            "cannot serve segment: it wants AGE as well",
        ),
    ],
)
def test_a_broken_contract_is_told(stage, text, complaint):
    with pytest.raises(ModelContractError, match=complaint):
        describe(stage, "2", config(text))


@pytest.mark.parametrize(
    ("labels", "complaint"),
    [("", "names no classes"), ("melanoma,nevus", "gives 3 probabilities, but .* names 2")],
)
def test_a_classifier_without_a_name_for_each_probability_is_refused(labels, complaint):
    text = CLASSIFY.replace("melanoma, nevus,seborrheic_keratosis", labels)
    with pytest.raises(ModelContractError, match=complaint):
        describe(Stage.CLASSIFY, "1", config(text))


def test_every_stage_has_a_contract_that_starts_with_the_image():
    assert set(CONTRACTS) == set(Stage)
    assert {contract.inputs[0].name for contract in CONTRACTS.values()} == {"IMAGE"}


@pytest.mark.parametrize(
    ("groups", "device"),
    [
        ("", "unknown"),
        ("instance_group [ { kind: KIND_CPU } ]", "cpu"),
        ("instance_group [ { kind: KIND_CPU }, { kind: KIND_GPU gpus: 0 } ]", "gpu"),
        ("instance_group [ { kind: KIND_MODEL } ]", "unknown"),
    ],
)
def test_a_model_runs_on_what_its_instances_are_on(groups, device):
    assert describe(Stage.SEGMENT, "1", config(SEGMENT + groups)).device == device
