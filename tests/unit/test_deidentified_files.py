"""De-identified files as they come: encodings, pixels, comments, colour profiles."""

from contextlib import suppress
from io import BytesIO

import numpy as np
import pytest
from deidentified import DRAWN, JPEG, PLAIN, WORD, changed, cleaned, header
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms
from pydicom import dcmwrite
from pydicom.dataelem import DataElement
from pydicom.encaps import encapsulate, generate_fragments
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian

from dermbatch.errors import BadInput
from dermbatch.images.imagefile import read_image
from orchestrator.planning.privacy.coded import plain_profile, without_comments

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


COMMENTED = encapsulate([jpeg(comment=WORD)])


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_pixels_are_followed_or_refused(data):
    body = bytearray(COMMENTED)
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
