"""The tables of the DICOM Conformance Statement are those of the code."""

import re
from io import BytesIO

import pytest
from handed_over import looked_at
from pydicom import dcmread
from pydicom.pixels.decoders import pylibjpeg
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID, AllTransferSyntaxes
from test_docs import codes, tables, text

from dermbatch.errors import BadInput
from dermbatch.images.dicom.agreement import _PHOTOMETRIC
from dermbatch.images.dicomfile import _plugin
from dermbatch.images.dicompolicy import SKIN_CLASSES, SKIN_MODALITIES
from dermbatch.records.outcome import DicomKind

DOCUMENT = "docs/dicom-conformance.md"


def rows(*headings):
    return [row for row in tables(DOCUMENT) if set(headings) == set(row)]


def test_the_classes_that_are_read():
    listed = {codes(row["UID"])[0]: row["SOP Class"] for row in rows("SOP Class", "UID")}
    assert set(listed) == SKIN_CLASSES
    assert all(UID(uid).name == name for uid, name in listed.items())


def test_the_modalities_and_photometric_interpretations_that_are_read():
    document = text(DOCUMENT)
    modalities = re.search(r"with a Modality of (.*?), or none", document, re.DOTALL)[1]
    assert set(codes(modalities)) == SKIN_MODALITIES - {""}
    photometric = re.search(r"Photometric interpretations: (.*?)\n\n", document, re.DOTALL)[1]
    words = set(re.findall(r"RGB|YBR_\w+|PALETTE COLOR|MONOCHROME\d", photometric))
    assert words == _PHOTOMETRIC


def test_the_classes_that_are_written():
    made = looked_at()
    found = {
        (dataset.SOPClassUID, dataset.Modality, str(dataset.SeriesNumber), dataset.file_meta.TransferSyntaxUID)
        for key in made.record.dicom.values()
        for dataset in [dcmread(BytesIO(made.store.get(made.store.bucket, key)))]
    }
    assert len(found) == len(DicomKind.__args__)
    listed = rows("Object", "SOP Class", "SOP Class UID", "Modality", "Series Number")
    assert {
        (codes(row["SOP Class UID"])[0], codes(row["Modality"])[0], row["Series Number"]) for row in listed
    } == {entry[:3] for entry in found}
    assert all(UID(codes(row["SOP Class UID"])[0]).name == row["SOP Class"] for row in listed)
    written = {
        codes(row["UID"])[0]
        for row in rows("Transfer syntax", "UID", "Read", "Written")
        if row["Written"] == "yes"
    }
    assert written == {entry[3] for entry in found}


def test_the_transfer_syntaxes_that_are_read():
    read = set()
    for syntax in AllTransferSyntaxes:
        try:
            _plugin(syntax)
        except BadInput:
            continue
        read.add(str(syntax))
    listed = {codes(row["UID"])[0]: row["Read"] for row in rows("Transfer syntax", "UID", "Read", "Written")}
    assert set(listed) == read
    assert set(listed.values()) == {"yes", "with the extra `codecs`"}


@pytest.mark.parametrize("row", rows("Transfer syntax", "UID", "Read", "Written"), ids=lambda row: row["UID"])
def test_what_needs_the_extra_is_what_only_its_codec_reads(row):
    uid = UID(codes(row["UID"])[0])
    if not uid.is_encapsulated:
        assert row["Read"] == "yes"
        return
    by_codec = "pylibjpeg-libjpeg" in " ".join(pylibjpeg.DECODER_DEPENDENCIES[uid])
    by_others = {"pillow", "pydicom"} & set(get_decoder(uid).available_plugins)
    assert (row["Read"] == "yes") == bool(by_others or not by_codec)
