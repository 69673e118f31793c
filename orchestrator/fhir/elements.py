"""Elements that FHIR resources are made of (R4), as plain JSON: codes, quantities, identifiers, references."""

from __future__ import annotations

from typing import Any

from pydicom.sr.coding import Code

from dermbatch.records.codes import SCHEME
from dermbatch.records.measures import Measure
from dermbatch.records.uids import uid_of, uuid_of

Json = dict[str, Any]

UID_SYSTEM = "urn:dicom:uid"
_URI_SYSTEM = "urn:ietf:rfc3986"
_IDENTIFIER_TYPES = "http://terminology.hl7.org/CodeSystem/v2-0203"
_CATEGORIES = "http://terminology.hl7.org/CodeSystem/observation-category"

OWN_CODES = f"urn:oid:{uid_of('coding scheme', SCHEME)}"
"""The coding scheme 99DERMBATCH: DICOM knows it by its designator, FHIR by a URI."""

SYSTEMS = {
    "SCT": "http://snomed.info/sct",
    "DCM": "http://dicom.nema.org/resources/ontology/DCM",
    "LN": "http://loinc.org",
    "UCUM": "http://unitsofmeasure.org",
    SCHEME: OWN_CODES,
}
"""URIs of coding schemes (FHIR R4, 4.3.0.1; of DICOM, PS3.16, table 8-1)."""

IMAGING: Json = {"coding": [{"system": _CATEGORIES, "code": "imaging", "display": "Imaging"}]}


def concept(code: Code, text: str | None = None) -> Json:
    """A code as CodeableConcept."""
    coding = {"system": SYSTEMS[code.scheme_designator], "code": code.value, "display": code.meaning}
    return {"coding": [coding], "text": text or code.meaning}


def measure_name(measure: Measure) -> Json:
    """What a number means. Derivation and method, for which components have no place, are in the text."""
    more = [code.meaning for code in (measure.derivation, measure.method) if code is not None]
    return concept(measure.name, ": ".join([measure.name.meaning, ", ".join(more)]) if more else None)


def quantity(measure: Measure) -> Json:
    """A number with its unit of UCUM."""
    unit = measure.unit
    return {"value": measure.value, "unit": unit.meaning, "system": SYSTEMS["UCUM"], "code": unit.value}


def uid_identifier(uid: str) -> Json:
    """A DICOM UID as Identifier (FHIR R4, ImagingStudy, 8.22.3)."""
    return {"system": UID_SYSTEM, "value": f"urn:oid:{uid}"}


def typed_identifier(kind: str, value: str) -> Json:
    """An identifier whose type is known, but not who issued it (HL7 v2, table 0203)."""
    return {"type": {"coding": [{"system": _IDENTIFIER_TYPES, "code": kind}]}, "value": value}


def own_identifier(*names: str) -> Json:
    """The identifier of a resource that we make: always the same for the same names."""
    return {"system": _URI_SYSTEM, "value": f"urn:oid:{uid_of('fhir', *names)}"}


def full_url(*names: str) -> str:
    """The URL by which resources of one Bundle refer to each other."""
    return f"urn:uuid:{uuid_of('fhir', *names)}"


def logical(resource: str, identifier: Json) -> Json:
    """A reference by identifier: the server knows or looks up which of its resources that is."""
    return {"type": resource, "identifier": identifier}
