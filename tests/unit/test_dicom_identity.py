"""Whose DICOM objects are: UIDs, identifiers, dates and texts of foreign headers, kept, mended or left out."""

from io import BytesIO

import pytest
from handed_over import UID, Made, looked_at, source
from pydicom import dcmread

from dermbatch.handover.dicom.header import valid_uid
from dermbatch.records.uids import uid_of
from dermbatch.stages import ORDER


def test_another_file_under_the_same_uid_gives_other_uids():
    one, other = looked_at(), Made(source(StudyDescription="another"))
    for kind in one.files:
        assert one.read(kind).SOPInstanceUID != other.read(kind).SOPInstanceUID


def test_a_header_of_strangers_is_mended():
    body = source(
        StudyInstanceUID='"1.2.840.99"',
        SOPInstanceUID="not a UID",
        SeriesInstanceUID="",
        FrameOfReferenceUID="1..2",
        PatientSex="female",
        StudyDate="2020-05-20",
        PatientID='"quoted"',
        PatientAge="57",
        InstanceNumber=None,
        PatientName=None,
        ContentDate=None,
    )
    made = Made(body)
    assert len(made.files) == 3
    for kind in made.files:
        read = made.read(kind)
        assert read.StudyInstanceUID == "1.2.840.99"
        assert read.PatientID == '"quoted"'  # quote marks are allowed there, and are what the PACS knows
        assert (read.PatientSex, read.StudyDate, read.PatientName) == ("", "20200520", "")
        assert "PatientAge" not in read
        assert read.InstanceNumber == 1
        assert read.ContentDate == "20200520"
    shown = made.read("enhanced")
    assert shown.SourceImageSequence[0].ReferencedSOPInstanceUID == uid_of("malformed", "not a UID")
    assert made.read("segmentation").FrameOfReferenceUID == uid_of("malformed", "1..2")


def test_names_outside_ascii_are_kept():
    body = source(PatientName="Müller^Žofie", SpecificCharacterSet="ISO_IR 192")
    read = Made(body).read("report")
    assert (str(read.PatientName), read.SpecificCharacterSet) == ("Müller^Žofie", "ISO_IR 192")


def test_a_header_that_breaks_everything_does_not_cost_the_result(monkeypatch):
    from dermbatch.handover.dicom import objects

    def broken(*_args, **_named):
        raise KeyError("a header")

    monkeypatch.setattr(objects, "source_header", broken)
    made = Made(source())
    assert made.record.no_dicom == "header_unusable"
    assert list(made.record.stages) == list(ORDER)


@pytest.mark.parametrize(
    ("uid", "expected"),
    [
        ("1.2.3", "1.2.3"),
        ('"1.2.3"', "1.2.3"),
        (" 1.2.3\0", "1.2.3"),
        ("2.25.0", "2.25.0"),
        ("1.02.3", "1.02.3"),  # none by PS3.5, 9.1, but what the PACS has the Study by
        ("3.4", "3.4"),
    ],
)
def test_uids_that_are_meant_well_are_kept(uid, expected):
    assert valid_uid(uid, "x") == expected


@pytest.mark.parametrize("uid", ["1", "1..2", "1.2.", "1.2." + "9" * 64, "abc", "1,2"])
def test_malformed_uids_become_valid_ones_always_the_same(uid):
    assert UID.fullmatch(valid_uid(uid))
    assert valid_uid(uid, "x") == valid_uid(f'"{uid}"', "y") != valid_uid(uid + "7")


@pytest.mark.parametrize(
    ("header", "written", "notes"),
    [
        (
            {"StudyDate": "2024.03.05", "StudyTime": "12:30:45"},
            ("20240305", "123045"),
            ("study_date", "study_time"),
        ),
        ({"StudyDate": "2024-03-05", "StudyTime": "1230"}, ("20240305", "1230"), ("study_date",)),
        ({"StudyDate": "2024/03/05", "StudyTime": "235960"}, ("20240305", "235960"), ("study_date",)),
        ({"StudyDate": "20240229", "StudyTime": "12:30:45.25"}, ("20240229", "123045.25"), ("study_time",)),
        ({"StudyDate": "20190229", "StudyTime": "2400"}, ("", ""), ("study_date", "study_time")),
        ({"StudyDate": "2019.13.01", "StudyTime": "12:3"}, ("", ""), ("study_date", "study_time")),
    ],
)
def test_dates_and_times_are_those_of_the_source(header, written, notes):
    made = Made(source(**header, ContentDate=None))
    for kind in made.files:
        read = made.read(kind)
        assert (read.StudyDate, read.StudyTime) == written
        assert read.ContentDate == (written[0] or "19000101")
    assert {note.split("_", 1)[1].removeprefix("out_") for note in made.record.dicom_notes} == set(notes)


@pytest.mark.parametrize(
    ("identifiers", "note"),
    [
        ({"AccessionNumber": "ACC-2026-0001-0042"}, "left_out_accession_number"),
        ({"StudyID": "S" * 17}, "left_out_study_id"),
        ({"PatientID": "P" * 65}, "left_out_patient_id"),
        ({"PatientSex": "Female"}, "left_out_patients_sex"),
    ],
)
def test_identifiers_are_whole_or_not_there(identifiers, note):
    made = Made(source(**identifiers))
    (keyword,) = identifiers
    assert note in made.record.dicom_notes
    assert all(made.read(kind)[keyword].value in ("", None) for kind in made.files)


@pytest.mark.parametrize("uid", ["1.2.840.01.5", "1.2.840.99999.007", "1.2.3." + "0" * 50])
def test_a_study_stays_where_the_pacs_has_it(uid):
    made = Made(source(StudyInstanceUID=uid, SOPInstanceUID=uid + ".01"))
    assert len(made.files) == 3
    for kind in made.files:
        assert made.read(kind).StudyInstanceUID == uid
        assert (uid + ".01").encode() in made.files[kind]
    assert made.record.dicom_notes == ()


def test_a_uid_that_cannot_be_written_is_said():
    made = Made(source(StudyInstanceUID="1.2." + "9" * 67))
    assert made.record.dicom_notes == ("replaced_study_instance_uid",)
    assert all(UID.fullmatch(made.read(kind).StudyInstanceUID) for kind in made.files)


@pytest.mark.parametrize(("encoding", "name"), [("utf-8", "Müller^Jürgen"), ("latin-1", "Müller^Jürgen")])
def test_text_without_a_character_set_is_read_by_its_bytes(encoding, name):
    body = source(SpecificCharacterSet="ISO_IR 192", PatientName="MMMMMMMMMMMMMM")
    plain = dcmread(BytesIO(body))
    del plain.SpecificCharacterSet
    file = BytesIO()
    plain.save_as(file)
    written = name.encode(encoding).ljust(14)
    assert b"M" * 14 in file.getvalue()
    made = Made(file.getvalue().replace(b"MMMMMMMMMMMMMM", written[:14].ljust(14)))
    expected = written[:14].decode(encoding, "ignore").strip()
    assert str(made.read("report").PatientName) == expected


@pytest.mark.parametrize(
    ("declared", "encoding", "read", "noted"),
    [
        ("ISO 2022 IR 87", "utf-8", "Müller^J", False),
        ("ISO_IR 999", "utf-8", "Müller^J", False),
        ("UTF-8", "utf-8", "Müller^J", False),
        ("ISO_IR 100", "latin-1", "Müller^J", False),
        ("ISO_IR 192", "latin-1", None, True),
        ("ISO 2022 IR 87", "latin-1", None, True),
    ],
)
def test_text_in_another_character_set_than_is_declared(declared, encoding, read, noted):
    body = source(SpecificCharacterSet="ISO_IR 192", PatientName="MMMMMMMMMM")
    padded = declared.encode() + b" " * (len(declared) % 2)
    body = body.replace(b"CS\x0a\0ISO_IR 192", b"CS" + bytes([len(padded), 0]) + padded)
    made = Made(body.replace(b"MMMMMMMMMM", "Müller^J".encode(encoding).ljust(10)))
    assert ("rewritten_patients_name" in made.record.dicom_notes) == noted
    assert read is None or str(made.read("report").PatientName) == read


def test_missing_uids_differ_by_what_they_are_of():
    assert valid_uid("", "instance", "a") != valid_uid("", "instance", "b")
    assert len(valid_uid("", "instance", "a")) <= 64
