"""FHIR resources of a result: what they say, whose they are, and that R4 allows them."""

import json
import re
from io import BytesIO

import pytest
from fhir.resources.R4B.bundle import Bundle
from fhir.resources.R4B.device import Device
from fhir.resources.R4B.diagnosticreport import DiagnosticReport
from fhir.resources.R4B.observation import Observation
from handed_over import Made, source
from pydicom import dcmread

from dermbatch.errors import ArtifactDamaged, ObjectNotFound
from dermbatch.records import codes
from dermbatch.records.asked import Deidentification
from dermbatch.records.outcome import ClassifyOutput, LesionGeometry
from dermbatch.records.uids import uid_of
from dermbatch.stages import Stage
from orchestrator.fhir.delivery import write_bundles
from orchestrator.fhir.elements import OWN_CODES, SYSTEMS
from orchestrator.fhir.identity import NOBODY, SourceIdentity, read_identity
from orchestrator.fhir.resources import as_json, bundle
from tests.outcome_samples import batch_of, entry_of, failure_of, result_of, write_manifest, write_record

WHOSE = SourceIdentity(patient="P-7", issuer="Clinic", study="1.2.840.9", accession="A-1")
DEIDENTIFIED = Deidentification(
    profile="p", dates="keep", uids="keep", burned_in_text="flag", reidentification=False, salt="s"
)


def made(record=None, whose=NOBODY, **asked):
    record = record or result_of("b", 3, mm=0.1, flags=("touches_frame", "low_confidence"))
    return bundle(record, batch_of("b", 9, **asked), whose)


def resources(bundle, kind):
    return [entry["resource"] for entry in bundle["entry"] if entry["resource"]["resourceType"] == kind]


def coded(element):
    return element["coding"][0]["code"]


def components(observation):
    return {coded(one["code"]): one for one in observation.get("component", [])}


@pytest.fixture(scope="module")
def dicom():
    return Made(source(AccessionNumber="A-77", IssuerOfPatientID="Clinic", FrameOfReferenceUID="1.2.3.4"))


@pytest.mark.parametrize("whose", [NOBODY, WHOSE])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"mm": 0.1, "flags": ("touches_frame", "burned_in_text")},
        {"area": 0, "flags": ("no_lesion",)},
        {"stages": (Stage.SEGMENT,)},
        {"stages": (Stage.CLASSIFY,)},
    ],
)
def test_r4_allows_every_bundle(changes, whose):
    bundle = made(result_of("b", 3, **changes), whose)
    Bundle.model_validate_json(as_json(bundle))
    for kind, model in (("Device", Device), ("Observation", Observation), ("DiagnosticReport", DiagnosticReport)):
        assert resources(bundle, kind)
        for resource in resources(bundle, kind):
            model.model_validate_json(as_json(resource))


def test_the_judge_is_none_of_r5_and_does_refuse():
    import fhir.resources

    assert fhir.resources.__fhir_version__ == "5.0.0"  # its default, under which Device has other elements
    observation = resources(made(), "Observation")[0]
    for broken in ({"status": ""}, {"valueQuantity": {"value": 1}}, {"divice": {}}):
        with pytest.raises(ValueError, match="validation error"):
            Observation.model_validate_json(as_json({**observation, **broken}))


def test_entries_lead_to_each_other_and_are_made_once_only():
    bundle = made(whose=WHOSE)
    urls = [entry["fullUrl"] for entry in bundle["entry"]]
    assert len(set(urls)) == len(urls)
    assert all(re.fullmatch(r"urn:uuid:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", url) for url in urls)
    assert set(re.findall(r'"reference":"([^"]+)"', as_json(bundle).decode())) <= set(urls)
    (report,) = resources(bundle, "DiagnosticReport")
    observed = [e["fullUrl"] for e in bundle["entry"] if e["resource"]["resourceType"] == "Observation"]
    assert [one["reference"] for one in report["result"]] == observed
    for entry in bundle["entry"]:
        (identifier,) = entry["resource"]["identifier"]
        assert entry["request"] == {
            "method": "POST",
            "url": entry["resource"]["resourceType"],
            "ifNoneExist": f"identifier={identifier['system']}|{identifier['value']}",
        }


def test_codes_are_those_of_the_structured_report(dicom):
    report = dcmread(BytesIO(dicom.files["report"]))
    told = {
        (item.CodingSchemeDesignator, item.CodeValue)
        for item in report.iterall()
        if item.VR == "SQ" and item.keyword.endswith("CodeSequence")
        for item in item.value
    }
    built = bundle(dicom.record, batch_of("b", 9))
    ours = {designator: system for system, designator in ((s, d) for d, s in SYSTEMS.items())}
    by_system = {system: designator for designator, system in ours.items()}
    used = {
        (by_system[coding["system"]], coding["code"])
        for coding in codings(resources(built, "Observation") + resources(built, "DiagnosticReport"))
        if coding["system"] in by_system
    }
    assert used <= told
    assert {"95324001", "39937001", "42798000", "131191004", "81827009", "126000", "121071"} <= {
        c for _, c in used
    }
    assert {code for scheme, code in told - used if scheme == "99DERMBATCH"} == {"FERET"}  # in a text: no place


def codings(element):
    if isinstance(element, dict):
        if "code" in element and "system" in element:
            yield element
        element = list(element.values())
    if isinstance(element, list):
        for one in element:
            yield from codings(one)


def test_measures_have_units_of_ucum_and_flags_are_told():
    (lesion, _) = resources(made(), "Observation")
    measures = components(lesion)
    geometry = result_of("b", 3, mm=0.1).stages[Stage.SEGMENT].output.lesion
    assert measures["42798000"]["valueQuantity"] == {
        "value": geometry.area_mm2,
        "unit": "square millimeter",
        "system": "http://unitsofmeasure.org",
        "code": "mm2",
    }
    assert measures["81827009"]["valueQuantity"]["code"] == "mm"
    assert "Maximum" in measures["81827009"]["code"]["text"]
    assert measures["ASYMMETRY"]["valueQuantity"]["code"] == "1"
    raised = [coded(one["valueCodeableConcept"]) for one in lesion["component"] if "valueCodeableConcept" in one]
    assert raised == ["Q-FRAME", "Q-CONFIDENCE"]
    assert (coded(lesion["code"]), coded(lesion["valueCodeableConcept"])) == ("121071", "95324001")
    assert coded(lesion["bodySite"]) == "39937001"


def test_without_spacing_measures_are_in_pixels():
    (lesion, _) = resources(made(result_of("b", 3)), "Observation")
    assert components(lesion)["42798000"]["valueQuantity"]["code"] == "{pixels}"


def test_probabilities_are_components_and_no_class_is_a_conclusion():
    built = made()
    (_, classes) = resources(built, "Observation")
    assert {name: one["valueQuantity"]["value"] for name, one in components(classes).items()} == {
        "P-MEL": 0.2,
        "P-NV": 0.7,
        "P-SK": 0.1,
    }
    assert coded(classes["code"]) == "MOST-PROBABLE"
    assert classes["code"]["coding"][0]["system"] == OWN_CODES
    assert coded(classes["valueCodeableConcept"]) == "400096001"
    (report,) = resources(built, "DiagnosticReport")
    assert report["conclusion"] == codes.NOT_ALONE
    assert "conclusionCode" not in report
    assert {one["status"] for one in (report, *resources(built, "Observation"))} == {"preliminary"}


def test_models_are_devices_with_version_and_digest():
    built = made()
    devices = resources(built, "Device")
    assert [one["deviceName"][0]["name"] for one in devices] == ["segment_net", "classify_net"]
    versions = {one["type"]["text"]: one["value"] for one in devices[0]["version"]}
    assert versions == {"model": "1", "sha256": "ab" * 32, "Dermbatch": "0.2.0"}
    used = {one["device"]["reference"] for one in resources(built, "Observation")}
    assert used == {entry["fullUrl"] for entry in built["entry"] if entry["resource"]["resourceType"] == "Device"}


def test_identifiers_are_the_sources():
    built = made(whose=WHOSE)
    (report,) = resources(built, "DiagnosticReport")
    assert report["subject"] == {
        "type": "Patient",
        "identifier": {"value": "P-7", "assigner": {"display": "Clinic"}},
    }
    study = {"system": "urn:dicom:uid", "value": "urn:oid:1.2.840.9"}
    assert report["imagingStudy"] == [{"type": "ImagingStudy", "identifier": study}]
    (order,) = report["basedOn"]
    assert (order["identifier"]["value"], coded(order["identifier"]["type"])) == ("A-1", "ACSN")
    for observation in resources(built, "Observation"):
        assert observation["subject"] == report["subject"]


def test_of_a_deidentified_batch_nobody_is_named(dicom):
    batch = batch_of("b", 2000, deidentified=DEIDENTIFIED, dicom=True)
    assert read_identity(dicom.store, batch, dicom.record) == NOBODY
    for whose in (NOBODY, WHOSE):
        text = as_json(bundle(dicom.record, batch, whose)).decode()
        assert not re.search("P-7|Clinic|PHANTOM|A-1|1\\.2\\.840\\.9|subject|imagingStudy|basedOn|effective", text)


def test_names_and_places_of_files_are_nowhere(dicom):
    for record in (dicom.record, result_of("b", 3)):
        text = as_json(bundle(record, batch_of("b", 9), WHOSE)).decode()
        assert record.source.uri not in text
        assert "folder/" not in text


def test_identifiers_come_from_the_objects_of_an_image(dicom):
    original = dcmread(BytesIO(source()))
    found = read_identity(dicom.store, batch_of("b", 2000), dicom.record)
    assert (found.patient, found.issuer, found.accession) == (original.PatientID, "Clinic", "A-77")
    assert found.study == original.StudyInstanceUID
    assert found.taken.strftime("%Y%m%d") == original.ContentDate
    (report,) = resources(bundle(dicom.record, batch_of("b", 2000), found), "DiagnosticReport")
    assert report["effectiveDateTime"] == found.taken.isoformat()


@pytest.mark.parametrize("uid", ["", "no UID at all"])
def test_a_study_uid_that_was_made_up_is_not_told(uid):
    strange = Made(source(StudyInstanceUID=uid, PatientID="", ContentDate=None, StudyDate=None))
    written = strange.read("report").StudyInstanceUID
    assert written in {uid_of("missing", "study", strange.record.source.sha256), uid_of("malformed", uid)}
    found = read_identity(strange.store, batch_of("b", 2000), strange.record)
    assert (found.study, found.patient, found.taken) == (None, None, None)


def test_without_dicom_objects_nobody_is_named(dicom):
    assert read_identity(dicom.store, batch_of("b", 9), result_of("b", 3)) == NOBODY


def test_objects_that_are_gone_or_damaged_name_nobody_by_mistake():
    gone = Made(source())
    key = gone.record.dicom["report"]
    gone.store.put(key, gone.files["report"] + b"\0\0", "application/dicom")
    with pytest.raises(ArtifactDamaged):
        read_identity(gone.store, batch_of("b", 2000), gone.record)
    gone.store.delete(key)
    with pytest.raises(ObjectNotFound):
        read_identity(gone.store, batch_of("b", 2000), gone.record)


def test_no_lesion_is_said():
    (lesion, _) = resources(made(result_of("b", 3, area=0, flags=("no_lesion",))), "Observation")
    assert (coded(lesion["code"]), coded(lesion["valueCodeableConcept"])) == ("SEG-OUTCOME", "NO-LESION")
    assert [coded(one["valueCodeableConcept"]) for one in lesion["component"]] == ["Q-NO-LESION"]
    assert "bodySite" not in lesion


def test_no_dermoscopic_image_has_no_class():
    record = result_of("b", 3, flags=("not_dermoscopic",))
    classified = record.stages[Stage.CLASSIFY]
    none = ClassifyOutput(probabilities={}, label=None, distance=2.0, embedding_sha256="e")
    stages = {**record.stages, Stage.CLASSIFY: classified.model_copy(update={"output": none})}
    built = made(record.model_copy(update={"stages": stages}))
    (_, classes) = resources(built, "Observation")
    assert coded(classes["valueCodeableConcept"]) == "NOT-CLASSIFIED"
    assert "component" not in classes
    Bundle.model_validate_json(as_json(built))


def test_a_result_of_other_stages_alone_has_nothing_to_tell():
    assert made(result_of("b", 3, stages=(Stage.PURIFY,))) is None


def test_the_same_result_is_the_same_resource_and_another_is_another():
    def names(record, whose=NOBODY, batch="b"):
        return [entry["fullUrl"] for entry in bundle(record, batch_of(batch, 9), whose)["entry"]]

    first = result_of("b", 3)
    assert as_json(made(first)) == as_json(made(first))
    assert names(first) == names(result_of("other", 3), batch="other")  # the same image and models
    again = result_of("b", 3, versions={Stage.SEGMENT: "2"})  # segmented again since, by another model
    assert not set(names(first)[2:]) & set(names(again)[2:])
    assert names(first)[1:2] == names(again)[1:2]  # the model that classified is the same device
    for other in (result_of("b", 4), result_of("b", 3, flags=("touches_frame",))):
        assert not set(names(first)[2:]) & set(names(other)[2:])
    assert not set(names(first)[2:]) & set(names(first, WHOSE)[2:])


def test_labels_that_are_not_known_have_a_code_of_their_own():
    record = result_of("b", 3)
    classified = record.stages[Stage.CLASSIFY]
    strange = classified.output.model_copy(update={"probabilities": {"näevus\\x": 1.0}, "label": "näevus\\x"})
    stages = {**record.stages, Stage.CLASSIFY: classified.model_copy(update={"output": strange})}
    built = made(record.model_copy(update={"stages": stages}))
    Bundle.model_validate_json(as_json(built))


def test_all_measures_are_told():
    assert {"area_mm2", "perimeter_mm", "diameter_mm", "asymmetry", "border_irregularity"} <= set(
        LesionGeometry.model_fields
    )
    (lesion, _) = resources(made(), "Observation")
    assert {"42798000", "131191004", "81827009", "ASYMMETRY", "BORDER"} <= set(components(lesion))


def test_a_batch_is_written_image_by_image(tmp_path, dicom):
    store = type(dicom.store)()
    batch = batch_of("b", 5)
    write_manifest(store, batch, [entry_of(index) for index in range(5)])
    write_record(store, result_of("b", 0))
    write_record(store, failure_of("b", 1))
    write_record(store, result_of("b", 2, stages=(Stage.PURIFY,)))
    gone = result_of("b", 3).model_copy(update={"dicom": {"report": "batches/b/dicom/000000/3-sr.dcm"}})
    write_record(store, gone)
    lines = []
    told = write_bundles(store, batch, tmp_path, lines.append)
    assert (told.sent, told.failed, told.silent, told.bad, told.nobody) == (1, 1, 1, 1, 1)  # image 4 was deleted
    assert [line.partition(":")[0] for line in lines] == ["image 3"]
    written = tmp_path / "batches/b/fhir/000000/0.json"
    assert json.loads(written.read_bytes())["type"] == "transaction"
    assert list(tmp_path.rglob("*.json")) == [written]
