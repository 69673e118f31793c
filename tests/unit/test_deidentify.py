"""De-identification: what comes out of a file, what does not, and that it is the same everywhere."""

import os
import subprocess
import sys
import warnings
from contextlib import suppress
from datetime import date, timedelta
from io import BytesIO

import numpy as np
import pytest
from dicomanonymizer.dicom_anonymization_databases import dicomfields_2026c as table
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms
from pydantic import SecretStr
from pydicom import dcmread, dcmwrite
from pydicom.datadict import DicomDictionary, keyword_for_tag
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_fragments
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian

from dermbatch.errors import BadInput, UsageError
from dermbatch.images.imagefile import read_image
from dermbatch.phantoms.phantom import phantom
from dermbatch.phantoms.samples import SECONDARY_CAPTURE, dicom
from orchestrator.planning.privacy import attributes
from orchestrator.planning.privacy.coded import plain_profile, without_comments
from orchestrator.planning.privacy.deidentify import deidentify
from orchestrator.planning.privacy.profile import Profile, load_profile
from orchestrator.planning.privacy.pseudonyms import Pseudonyms

SALT = "a salt for tests, and long enough"
PSEUDONYMS = Pseudonyms(SecretStr(SALT))
DRAWN = phantom(4, height=96, width=128)
JPEG, PLAIN = dicom(DRAWN, identity=1), dicom(DRAWN, identity=1, sop_class=SECONDARY_CAPTURE, jpeg=False)
WORD = "Zqxsentinel"


def profile(**values):
    return Profile(name="test", **{"burned_in_text": "flag", **values})


def cleaned(data, pseudonyms=PSEUDONYMS, **values):
    return deidentify(data, profile(**values), pseudonyms, max_pixels=10**8)


def header(data):
    return dcmread(BytesIO(data))


def changed(data, change, **write):
    """A DICOM file with something done to its data set."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = dcmread(BytesIO(data))
        change(dataset)
        file = BytesIO()
        dataset.save_as(file, **write)
    return file.getvalue()


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


@pytest.mark.parametrize("source", [JPEG, PLAIN], ids=["photograph", "capture"])
@pytest.mark.parametrize("dates", ["remove", "shift"])
def test_nothing_of_any_attribute_comes_out(source, dates):
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

    planted = changed(source, plant)
    made = cleaned(planted, dates=dates).data
    for hidden in (WORD, "19371103", "90817263544", "077Y"):
        assert hidden.encode() in planted
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


def test_another_process_gives_the_same():
    program = (
        "import sys; from pydantic import SecretStr\n"
        "from orchestrator.planning.privacy.deidentify import deidentify\n"
        "from orchestrator.planning.privacy.profile import Profile\n"
        "from orchestrator.planning.privacy.pseudonyms import Pseudonyms\n"
        f"made = deidentify(sys.stdin.buffer.read(), Profile(name='test', dates='shift'), "
        f"Pseudonyms(SecretStr({SALT!r})), max_pixels=10**8)\n"
        "sys.stdout.buffer.write(made.data)"
    )
    env = {**os.environ, "PYTHONHASHSEED": "7"}
    other = subprocess.run([sys.executable, "-c", program], input=JPEG, capture_output=True, check=True, env=env)
    assert other.stdout == cleaned(JPEG, dates="shift").data


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


# Files as they come


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_other_encodings_keep_their_pixels(syntax):
    def change(dataset):
        dataset.file_meta.TransferSyntaxUID = syntax

    dataset, file = header(PLAIN), BytesIO()
    change(dataset)
    dcmwrite(file, dataset, implicit_vr=syntax.is_implicit_VR, little_endian=syntax.is_little_endian)
    source = file.getvalue()
    made = cleaned(source).data
    assert header(made).PixelData == header(PLAIN).PixelData
    assert header(made).file_meta.TransferSyntaxUID == syntax


def test_a_file_without_preamble_and_with_bytes_behind_its_pixels():
    def longer(dataset):
        dataset.PixelData = dataset.PixelData + WORD.encode() + b" "

    source = changed(PLAIN, longer)
    dataset = header(source)
    del dataset.file_meta
    file = BytesIO()
    dataset.save_as(file, implicit_vr=False, little_endian=True)
    for body in (source, file.getvalue()):
        assert header(cleaned(body).data).PixelData == header(PLAIN).PixelData


def test_a_palette_stays_where_the_picture_has_one():
    def change(dataset):
        dataset.PhotometricInterpretation, dataset.SamplesPerPixel = "PALETTE COLOR", 1
        del dataset.PlanarConfiguration
        dataset.PixelData = DRAWN.image[..., 0].tobytes()
        for number, colour in enumerate(("Red", "Green", "Blue")):
            colours = np.roll(np.arange(256) << 8, number).astype("<u2").tobytes()
            dataset.add(DataElement(f"{colour}PaletteColorLookupTableDescriptor", "US", [256, 0, 16]))
            dataset.add(DataElement(f"{colour}PaletteColorLookupTableData", "OW", colours))

    source = changed(PLAIN, change)
    made = cleaned(source).data
    assert np.array_equal(read_image(made, max_pixels=10**6).pixels, read_image(source, max_pixels=10**6).pixels)


def test_burned_in_text_is_refused_or_flagged():
    def says(source, value):
        def change(dataset):
            dataset.BurnedInAnnotation = value

        return changed(source, change)

    said_so = [(says(JPEG, value), True) for value in ("YES", "yes", "Y", "1", "TRUE", "maybe", ["NO", "YES"])]
    for source, doubtful in ((JPEG, False), (PLAIN, True), *said_so, (says(PLAIN, "NO"), False)):
        assert cleaned(source).may_have_text == doubtful
        if doubtful:
            with pytest.raises(BadInput) as refused:
                cleaned(source, burned_in_text="refuse")
            assert refused.value.reason == "burned_in_text"
        else:
            cleaned(source, burned_in_text="refuse")


def test_refusals_quote_nothing():
    def other(dataset):
        dataset.SOPClassUID, dataset.PatientName = "1.2.840.10008.5.1.4.1.1.2", WORD

    for body in (changed(JPEG, other), JPEG[:400], JPEG[:-3000], b"\0" * 128 + b"DICM" + WORD.encode() * 20):
        with pytest.raises(BadInput) as refused:
            read_image(cleaned(body).data, max_pixels=10**8)
        assert WORD not in str(refused.value)
        assert refused.value.__cause__ is None


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_other_files_keep_their_pixels_and_nothing_else(kind):
    exif, file = Image.Exif(), BytesIO()
    exif[0x010E], exif[0x0112] = WORD, 6
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(DRAWN.image).save(file, kind, exif=exif, icc_profile=icc)
    made = cleaned(file.getvalue())
    assert (made.patient, made.suffix) == (None, ".png")
    assert np.array_equal(
        read_image(made.data, max_pixels=10**6).pixels, read_image(file.getvalue(), max_pixels=10**6).pixels
    )
    assert WORD.encode() in file.getvalue()
    assert WORD.encode() not in made.data
    with Image.open(BytesIO(made.data)) as image:
        assert image.info == {}
        assert not image.getexif()
    with pytest.raises(BadInput):
        cleaned(file.getvalue()[:2000])


def jpeg(**options):
    file = BytesIO()
    Image.fromarray(DRAWN.image).save(file, "JPEG", quality=90, **options)
    return file.getvalue()


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("fragments", [1, 3])
def test_comments_of_compressed_pixels_are_wiped_in_place(progressive, fragments):
    exif = Image.Exif()
    exif[0x010E] = WORD
    body = jpeg(progressive=progressive, comment=WORD, exif=exif)
    frames = [body, jpeg(comment=WORD)]
    pixel_data = encapsulate(frames, fragments_per_frame=fragments)
    made = without_comments(pixel_data)
    assert len(made) == len(pixel_data)
    assert WORD.encode() in pixel_data
    assert WORD.encode() not in made
    # The picture itself, from its first table on, is the same.
    kept = [list(generate_fragments(one)) for one in (pixel_data, made)]
    pictures = [b"".join(fragments).split(b"\xff\xdb", 1)[1] for fragments in kept]
    assert pictures[0].replace(WORD.encode(), bytes(len(WORD))) == pictures[1]
    assert without_comments(made) == made


def test_comments_of_jpeg_2000_are_wiped_in_place():
    file = BytesIO()
    Image.fromarray(DRAWN.image).save(file, "JPEG2000", no_jp2=True, comment=WORD)
    pixel_data = encapsulate([file.getvalue(), file.getvalue()])
    made = without_comments(pixel_data)
    assert pixel_data.count(WORD.encode()) == 2
    assert WORD.encode() not in made
    different = [at for at, (old, new) in enumerate(zip(pixel_data, made, strict=True)) if old != new]
    assert len(different) <= 2 * len(WORD)
    frame = made[made.index(b"\xff\x4f\xff\x51") :]
    with Image.open(BytesIO(frame)) as image, Image.open(file) as original:
        assert np.array_equal(np.asarray(image), np.asarray(original))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_pixels_are_followed_or_refused(data):
    body = bytearray(encapsulate([jpeg(comment=WORD)]))
    for _ in range(data.draw(st.integers(1, 6))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(body[: data.draw(st.integers(0, len(body)))])
    with suppress(BadInput):
        assert len(without_comments(cut)) == len(cut)


def test_a_colour_profile_keeps_its_colours_alone():
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[80:84] = b"ZQXS"
    profile += WORD.encode()
    plain = plain_profile(bytes(profile))
    assert b"ZQXS" not in plain
    assert WORD.encode() not in plain
    ways = [
        ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(BytesIO(one)), ImageCms.createProfile("LAB"), "RGB", "LAB"
        )
        for one in (bytes(profile), plain)
    ]
    one, other = (np.asarray(way.apply(Image.fromarray(DRAWN.image))) for way in ways)
    assert np.array_equal(one, other)
    assert plain_profile(b"short") is None


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
