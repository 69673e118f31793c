"""An image's result as DiagnosticReport, Observations and Devices of FHIR R4 (4.0.1), in a transaction Bundle.

Pure functions of the result record, the batch and the identity: no clock, no store. Resources are named by their
content, so the same result gives the same Bundle, and a server that has it already creates nothing twice.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from dermbatch.records import codes
from dermbatch.records.asked import Batch
from dermbatch.records.marks import MANUFACTURER
from dermbatch.records.measures import Measure, measures, most_probable, probabilities
from dermbatch.records.outcome import ClassifyOutput, ModelUsed, ResultRecord, SegmentOutput
from dermbatch.stages import Stage
from orchestrator.fhir.elements import (
    IMAGING,
    Json,
    concept,
    full_url,
    logical,
    measure_name,
    own_identifier,
    quantity,
    typed_identifier,
    uid_identifier,
)
from orchestrator.fhir.identity import NOBODY, SourceIdentity

MEDIA_TYPE = "application/fhir+json"
REVISION = "1"
"""To be raised whenever the same result gives different resources: they need different identifiers then."""


@dataclass(frozen=True)
class _Image:
    record: ResultRecord
    whose: SourceIdentity

    @property
    def names(self) -> tuple[str, ...]:
        """What resources are named by: everything that they say, except when it was found."""
        who = (self.whose.patient, self.whose.issuer, self.whose.study, self.whose.accession, self.whose.taken)
        keys = [self.record.stages[stage].key for stage in sorted(self.record.stages)]
        rest = (*keys, *sorted(self.record.flags), *(str(one or "") for one in who))
        return REVISION, self.record.software, self.record.source.sha256, *rest


def bundle(record: ResultRecord, batch: Batch, whose: SourceIdentity = NOBODY) -> Json | None:
    """A result as a transaction Bundle; none if no stage was run that FHIR has resources for.

    Args:
        record: What was found.
        batch: What was asked. For a de-identified batch nobody is named, whatever ``whose`` says.
        whose: Identifiers that the source has.

    Returns:
        Devices, Observations and, last, the DiagnosticReport that names them; each is created only if the server
        has none with the same identifier (conditional create: FHIR R4, 3.1.0.8.1).
    """
    image = _Image(record, NOBODY if batch.order.deidentified is not None else whose)
    found = [one for one in (_lesion(image), _classes(image)) if one is not None]
    if not found:
        return None
    devices = {used: _device(used, record.software) for used in _models(record)}
    entries = [_entry(("device", REVISION, *_of(used, record.software)), made) for used, made in devices.items()]
    entries += [_entry((name, *image.names), made) for name, made in found]
    entries.append(_entry(("report", *image.names), _report(image, [name for name, _ in found])))
    return {"resourceType": "Bundle", "type": "transaction", "entry": entries}


def as_json(made: Json) -> bytes:
    """UTF-8 JSON of a resource."""
    return json.dumps(made, ensure_ascii=False, separators=(",", ":")).encode()


def _entry(names: tuple[str, ...], resource: Json) -> Json:
    identifier = own_identifier(*names)
    kind = resource["resourceType"]
    once = f"identifier={identifier['system']}|{identifier['value']}"
    return {
        "fullUrl": full_url(*names),
        "resource": {"resourceType": kind, "identifier": [identifier], **resource},
        "request": {"method": "POST", "url": kind, "ifNoneExist": once},
    }


def _report(image: _Image, names: list[str]) -> Json:
    """Preliminary, as the structured report is: a person has to look at it. No class is its conclusion."""
    whose = image.whose
    made: Json = {"resourceType": "DiagnosticReport", "status": "preliminary"}
    if whose.accession is not None:
        made["basedOn"] = [logical("ServiceRequest", typed_identifier("ACSN", whose.accession))]
    made |= {"code": concept(codes.MEASUREMENT_REPORT), **_common(image)}
    made["result"] = [{"reference": full_url(name, *image.names), "type": "Observation"} for name in names]
    if whose.study is not None:
        made["imagingStudy"] = [logical("ImagingStudy", uid_identifier(whose.study))]
    return made | {"conclusion": codes.NOT_ALONE}


def _common(image: _Image) -> Json:
    """Whose it is, from which day, and when it was found."""
    made: Json = {}
    if image.whose.patient is not None:
        identifier: Json = {"value": image.whose.patient}
        if image.whose.issuer is not None:
            identifier["assigner"] = {"display": image.whose.issuer}
        made["subject"] = logical("Patient", identifier)
    if image.whose.taken is not None:
        made["effectiveDateTime"] = image.whose.taken.isoformat()
    return made | {"issued": image.record.finished.isoformat()}


def _observation(image: _Image, used: ModelUsed, code: Json, value: Json, components: list[Json]) -> Json:
    made: Json = {"resourceType": "Observation", "status": "preliminary", "category": [IMAGING], "code": code}
    made |= {**_common(image), "valueCodeableConcept": value, "note": [{"text": codes.NOT_ALONE}]}
    device = full_url("device", REVISION, *_of(used, image.record.software))
    made["device"] = {"reference": device, "type": "Device"}
    if image.whose.study is not None:
        made["derivedFrom"] = [logical("ImagingStudy", uid_identifier(image.whose.study))]
    return made | ({"component": components} if components else {})


def _lesion(image: _Image) -> tuple[str, Json] | None:
    """What was measured on the mask, or that there is none; with the quality flags, as in the other report."""
    record = image.record.stages.get(Stage.SEGMENT)
    if record is None:
        return None
    assert isinstance(record.output, SegmentOutput)  # noqa: S101 - the stage says so
    raised = [
        {"code": concept(codes.QUALITY_FLAG), "valueCodeableConcept": concept(codes.QUALITY[flag])}
        for flag in image.record.flags
    ]
    lesion = record.output.lesion
    if lesion is None:
        code, value = concept(codes.OUTCOME), concept(codes.NO_LESION)
        return "lesion", _observation(image, record.model, code, value, raised)
    components = [*_components(measures(lesion)), *raised]
    made = _observation(image, record.model, concept(codes.FINDING), concept(codes.SKIN_LESION), components)
    return "lesion", made | {"bodySite": concept(codes.SKIN)}


def _classes(image: _Image) -> tuple[str, Json] | None:
    """The most probable class, and every class's probability."""
    record = image.record.stages.get(Stage.CLASSIFY)
    if record is None:
        return None
    assert isinstance(record.output, ClassifyOutput)  # noqa: S101 - the stage says so
    value = concept(most_probable(record.output))
    components = list(_components(probabilities(record.output)))
    return "classes", _observation(image, record.model, concept(codes.MOST_PROBABLE), value, components)


def _components(found: Iterator[Measure]) -> Iterator[Json]:
    return ({"code": measure_name(one), "valueQuantity": quantity(one)} for one in found)


def _models(record: ResultRecord) -> list[ModelUsed]:
    """The models whose findings are reported, each once."""
    stages = (Stage.SEGMENT, Stage.CLASSIFY)
    return list(dict.fromkeys(record.stages[stage].model for stage in stages if stage in record.stages))


def _of(used: ModelUsed, software: str) -> tuple[str, ...]:
    return software, used.name, used.version, used.sha256


def _device(used: ModelUsed, software: str) -> Json:
    """A model as it was run: by name, version and digest, and by which version of Dermbatch."""
    versions = {"model": used.version, "sha256": used.sha256, MANUFACTURER: software}
    return {
        "resourceType": "Device",
        "status": "active",
        "deviceName": [{"name": used.name, "type": "model-name"}],
        "type": concept(codes.ARTIFICIAL_INTELLIGENCE),
        "version": [{"type": {"text": kind}, "value": value} for kind, value in versions.items()],
        "note": [{"text": codes.NOT_ALONE}],
    }
