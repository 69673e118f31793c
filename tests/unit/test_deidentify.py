"""De-identification: what comes out of a file, what does not, and that it is the same everywhere."""

from datetime import date, timedelta
from functools import cache
from io import BytesIO

import numpy as np
import pytest
from deidentified import JPEG, PLAIN, PSEUDONYMS, SALT, WORD, changed, cleaned, header
from dicomanonymizer.dicom_anonymization_databases import dicomfields_2026c as table
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr
from pydicom.datadict import DicomDictionary, keyword_for_tag
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import ImplicitVRLittleEndian

from dermbatch.errors import UsageError
from dermbatch.images.imagefile import read_image
from orchestrator.planning.privacy import attributes
from orchestrator.planning.privacy.profile import Profile, load_profile
from orchestrator.planning.privacy.pseudonyms import Pseudonyms


def keywords(dataset):
    for element in dataset:
        yield element.keyword
        if element.VR == "SQ":
            for item in element.value:
                yield from keywords(item)


# What goes


SAMPLES = {
    "DA": "19371103",
    "DT": "19371103112233",
    "TM": "112233",
    "AS": "077Y",
    "UI": "1.2.90817263544",
    "IS": "90817263544",
}


def value_of(vr):
    """A value of this kind that can be found again."""
    if vr in ("OB", "UN", "OW"):
        return WORD.encode() + b" "
    if vr == "SQ":
        item = Dataset()
        item.PatientName = WORD
        return [item]
    return SAMPLES.get(vr, "-" + WORD if vr == "UR" else WORD)


NUMERIC = {"US", "SS", "UL", "SL", "FL", "FD", "DS", "AT", "OF", "OD", "OL", "OV", "SV", "UV"}


def plantable():
    """Every attribute of the standard that can hold a text, with its VR: of its dictionary, and of table E.1-1.

    Private groups, overlays and curves are planted apart; numbers hold no text.
    """
    vrs = {tag: entry[0] for tag, entry in DicomDictionary.items()}
    # What is newer than pydicom's dictionary is taken for a text.
    named = {Tag(tag): vrs.get(Tag(tag), "LO") for tag in table.ALL_TAGS if len(tag) == 2}
    for tag, vr in sorted({**vrs, **named}.items()):
        if 0x0008 <= Tag(tag).group < 0x7FE0 and " or " not in vr and vr not in NUMERIC:
            yield Tag(tag), vr


def keyword_of(tag):
    return keyword_for_tag(tag) or str(tag)


@cache
def planted(source):
    """A file with a value in every attribute that can hold one."""
    left = {"SOPClassUID", "Modality", "BodyPartExamined", "PhotometricInterpretation", "SpecificCharacterSet"}
    tags = [(tag, vr) for tag, vr in plantable() if keyword_of(tag) not in left]
    assert len(tags) > 2500

    def plant(dataset):
        for tag, vr in tags:
            dataset.add(DataElement(tag, vr, value_of(vr)))
        dataset.private_block(0x0021, WORD, create=True).add_new(1, "LO", WORD)
        dataset.add(DataElement(0x60003000, "OW", WORD.encode() + b" "))
        dataset.add(DataElement(0x60000022, "LO", WORD))
        dataset.add(DataElement(0x50003000, "OW", WORD.encode() + b" "))
        dataset.add(DataElement(0xFFFCFFFC, "OB", WORD.encode() + b" "))

    return changed(source, plant)


@pytest.mark.parametrize("source", [JPEG, PLAIN], ids=["photograph", "capture"])
@pytest.mark.parametrize("dates", ["remove", "shift"])
def test_nothing_of_any_attribute_comes_out(source, dates):
    made = cleaned(planted(source), dates=dates).data
    for hidden in (WORD, "19371103", "90817263544", "077Y"):
        assert hidden.encode() in planted(source)
        assert hidden.lower().encode() not in made.lower()
    assert set(keywords(header(made))).isdisjoint({"", "PatientAge", "OtherPatientIDs", "OverlayData"})
    assert np.array_equal(read_image(made, max_pixels=10**8).pixels, read_image(source, max_pixels=10**8).pixels)


def test_what_the_table_removes_is_in_no_list_of_what_stays():
    kept = {
        *(attributes.NUMBERS | attributes.DECIMALS | attributes.BYTES | attributes.CODED),
        *attributes.WORDS,
        *attributes.CLASSES,
    }
    named = {keyword_for_tag(Tag(tag[:2])) for tag in table.ALL_TAGS if len(tag) == 2}
    assert kept & named == set()
    replaced = {keyword_for_tag(Tag(tag[:2])) for tag in table.U_TAGS if len(tag) == 2}
    assert replaced >= attributes.UIDS
    star = {keyword_for_tag(Tag(tag[:2])) for tag in table.X_Z_U_STAR_TAGS}
    assert star == attributes.REFERENCES


TEXT = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Z"], exclude_characters="\\^="),
    min_size=6,
    max_size=30,
).map("§".__add__)
"""With a sign before it that no word of the standard has."""
IDENTIFYING = (
    "PatientName",
    "PatientID",
    "StudyID",
    "InstitutionName",
    "StudyDescription",
    "ImageComments",
    "OperatorsName",
)


@settings(max_examples=20)
@given(
    st.lists(TEXT, min_size=len(IDENTIFYING), max_size=len(IDENTIFYING)),
    st.dates(date(1900, 1, 1), date(2199, 1, 1)),
)
def test_no_identifying_value_is_in_what_comes_out(values, born):
    def plant(dataset):
        for keyword, value in zip(IDENTIFYING, values, strict=True):
            setattr(dataset, keyword, value)
        dataset.PatientBirthDate = dataset.StudyDate = f"{born:%Y%m%d}"

    dataset = header(cleaned(changed(JPEG, plant)).data)
    assert dataset.PixelData == header(JPEG).PixelData  # of which a few bytes may read as a word by chance
    del dataset.PixelData
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    file = BytesIO()
    dataset.save_as(file, implicit_vr=True, little_endian=True)
    for value in (*values, f"{born:%Y%m%d}"):
        assert value.encode() not in file.getvalue()


def test_what_a_picture_needs_stays():
    def plant(dataset):
        dataset.ImageType, dataset.Laterality, dataset.PatientOrientation = (
            ["ORIGINAL", "PRIMARY", WORD],
            "L",
            ["A", "F"],
        )
        known, unknown = Dataset(), Dataset()
        known.CodeValue, known.CodingSchemeDesignator, known.CodeMeaning = "86381001", "SCT", WORD
        unknown.CodeValue, unknown.CodingSchemeDesignator, unknown.CodeMeaning = "4711", "99X", WORD
        dataset.AnatomicRegionSequence, dataset.ViewCodeSequence = [known], [unknown]

    made = header(cleaned(changed(JPEG, plant)).data)
    source = header(JPEG)
    assert (made.ImageType, made.Laterality, made.PatientOrientation) == (["ORIGINAL", "PRIMARY"], "L", ["A", "F"])
    assert made.AnatomicRegionSequence[0].CodeMeaning == "Skin of trunk"
    assert "ViewCodeSequence" not in made
    for keyword in ("Rows", "Columns", "PixelSpacing", "Modality", "SOPClassUID", "PixelData", "BodyPartExamined"):
        assert made[keyword].value == source[keyword].value, keyword


def test_the_copy_says_what_was_done():
    made = header(cleaned(JPEG, dates="shift", uids="keep").data)
    assert made.PatientIdentityRemoved == "YES"
    assert made.LongitudinalTemporalInformationModified == "MODIFIED"
    codes = [item.CodeValue for item in made.DeidentificationMethodCodeSequence]
    assert codes == ["113100", "113107", "113110"]
    assert all(len(item.CodeMeaning) <= 64 for item in made.DeidentificationMethodCodeSequence)
    assert len(made.DeidentificationMethod) <= 64
    made = header(cleaned(JPEG).data)
    assert made.LongitudinalTemporalInformationModified == "REMOVED"
    assert [item.CodeValue for item in made.DeidentificationMethodCodeSequence] == ["113100"]


# Who stays together


def test_images_of_a_patient_stay_together_and_others_apart():
    def patient(identifier, issuer="", salt=SALT):
        def name(dataset):
            dataset.PatientID, dataset.IssuerOfPatientID = identifier, issuer

        return cleaned(changed(JPEG, name), Pseudonyms(SecretStr(salt))).patient

    assert patient("1", "A") == patient('"1" ', "A")
    others = [patient("1", "A"), patient("2", "A"), patient("1", "B"), patient("1"), patient("1", "A", SALT[::-1])]
    assert len(set(others)) == len(others)


def test_without_an_id_a_study_stays_together():
    def nameless(study):
        def change(dataset):
            dataset.PatientID = ""
            dataset.StudyInstanceUID = study

        return cleaned(changed(JPEG, change)).patient

    assert nameless("1.2.3") == nameless('"1.2.3"') != nameless("1.2.4")


def test_a_shift_keeps_intervals_and_the_time_of_day():
    def on(day, study):
        def change(dataset):
            dataset.StudyDate = dataset.ContentDate = f"{day:%Y%m%d}"
            dataset.AcquisitionDateTime = f"{day:%Y%m%d}143015.5+0100"
            dataset.StudyInstanceUID = study

        return header(cleaned(changed(JPEG, change), dates="shift").data)

    first, later = on(date(2023, 12, 30), "1.2.3"), on(date(2024, 3, 2), "1.2.4")
    days = [date.fromisoformat(one.StudyDate) for one in (first, later)]
    assert days[1] - days[0] == date(2024, 3, 2) - date(2023, 12, 30)
    assert timedelta(1) <= date(2023, 12, 30) - days[0] <= timedelta(3650)
    assert first.AcquisitionDateTime == first.StudyDate + "143015.5+0100"
    assert first.StudyTime == "120000"
    assert first.PatientBirthDate == ""


@pytest.mark.parametrize("wrong", ["19991340", "1999", "00010101", "Monday", WORD])
def test_what_is_no_date_goes(wrong):
    def change(dataset):
        dataset.StudyDate = wrong

    for dates in ("keep", "shift"):
        made = header(cleaned(changed(JPEG, change), dates=dates).data)
        assert made.StudyDate in ("", wrong if (dates, wrong) == ("keep", "00010101") else "")


def test_references_between_objects_stay_right():
    def refer(dataset):
        item = Dataset()
        item.ReferencedSOPClassUID = dataset.SOPClassUID
        item.ReferencedSOPInstanceUID = header(JPEG).SOPInstanceUID
        dataset.SourceImageSequence = [item]
        dataset.SOPInstanceUID = "1.2.3.4"

    first, second = header(cleaned(JPEG).data), header(cleaned(changed(JPEG, refer)).data)
    assert second.SourceImageSequence[0].ReferencedSOPInstanceUID == first.SOPInstanceUID
    assert (second.StudyInstanceUID, second.SeriesInstanceUID) == (first.StudyInstanceUID, first.SeriesInstanceUID)
    assert second.SOPInstanceUID not in (first.SOPInstanceUID, "1.2.3.4")
    assert second.file_meta.MediaStorageSOPInstanceUID == second.SOPInstanceUID
    assert first.SOPInstanceUID.startswith("2.25.")
    kept = header(cleaned(JPEG, uids="keep").data)
    assert kept.SOPInstanceUID == header(JPEG).SOPInstanceUID


def test_what_is_no_uid_is_replaced_even_where_they_stay():
    def change(dataset):
        dataset.StudyInstanceUID = WORD

    made = header(cleaned(changed(JPEG, change), uids="keep").data)
    assert made.StudyInstanceUID == PSEUDONYMS.uid(WORD)


# Salt and profile


@pytest.mark.parametrize("salt", [None, SecretStr("short")])
def test_a_salt_is_asked_for(salt):
    with pytest.raises(UsageError, match="DERMBATCH_PRIVACY__SALT"):
        Pseudonyms(salt)


def test_the_fingerprint_tells_salts_apart_and_gives_nothing_away():
    other = Pseudonyms(SecretStr(SALT + "."))
    assert PSEUDONYMS.fingerprint == Pseudonyms(SecretStr(SALT)).fingerprint != other.fingerprint
    assert SALT not in PSEUDONYMS.fingerprint


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("name: a\ndates: sometimes\n", "dates"),
        ("name: a\ncolour: red\n", "colour"),
        ("name: A/B\n", "name"),
        ("dates: keep\n", "name"),
        ("name: [a\n", "line"),
        ("", "profile"),
        ("\0", "YAML"),
    ],
)
def test_a_wrong_profile_is_one_sentence(tmp_path, text, sentence):
    path = tmp_path / "p.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=sentence) as error:
        load_profile(path)
    assert "\n" not in str(error.value)


def test_a_profile_is_what_its_file_says(tmp_path):
    (tmp_path / "p.yaml").write_text("name: a\ndates: shift\n")
    assert load_profile(tmp_path / "p.yaml") == Profile(name="a", dates="shift")
    with pytest.raises(UsageError, match="cannot be read"):
        load_profile(tmp_path / "none.yaml")
