"""Words hidden around the pixels of DICOM files: none is left after de-identification, and no pixel differs."""

import struct
import warnings
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from pydantic import SecretStr
from pydicom import dcmread
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_fragments
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from dermbatch.errors import BadInput
from dermbatch.images import imagefile
from dermbatch.phantoms.phantom import phantom
from dermbatch.phantoms.samples import SECONDARY_CAPTURE, dicom
from orchestrator.planning.privacy import tails
from orchestrator.planning.privacy.deidentify import deidentify
from orchestrator.planning.privacy.profile import Profile
from orchestrator.planning.privacy.pseudonyms import Pseudonyms
from orchestrator.planning.privacy.surroundings import leave_pixels_only

WORD = b"Zqxsentinel^Jane"
SIDE = 37  # odd, so that there is padding
DRAWN = phantom(4, height=96, width=128)
PSEUDONYMS = Pseudonyms(SecretStr("a salt for tests, and long enough"))
RNG = np.random.default_rng(5)
GREY12 = RNG.integers(0, 4096, (SIDE, SIDE)).astype("<u2")
PICTURE = RNG.integers(0, 255, (SIDE, SIDE, 3)).astype(np.uint8)


def cleaned(data):
    profile = Profile(name="test", burned_in_text="flag")
    return deidentify(data, profile, PSEUDONYMS, max_pixels=10**8).data


def read_image(data):
    return imagefile.read_image(data, max_pixels=10**8)


def made(pixels, syntax=ExplicitVRLittleEndian, **header):
    """A DICOM file of these bytes, whatever its header says of them."""
    dataset = dcmread(BytesIO(dicom(DRAWN, identity=1, sop_class=SECONDARY_CAPTURE, jpeg=False)))
    dataset.file_meta.TransferSyntaxUID = syntax
    header_values = {"Rows": SIDE, "Columns": SIDE, "BitsAllocated": 8, "SamplesPerPixel": 1}
    header_values |= {"PhotometricInterpretation": "MONOCHROME2", **header}
    header_values |= {"BitsStored": header.get("BitsStored", header_values["BitsAllocated"])}
    header_values |= {"HighBit": header.get("HighBit", header_values["BitsStored"] - 1)}
    if header_values["SamplesPerPixel"] == 1 and "PlanarConfiguration" in dataset:
        del dataset.PlanarConfiguration
    for name, value in header_values.items():
        if name.endswith("Descriptor"):
            dataset[name] = DataElement(name, "US", value)
        else:
            setattr(dataset, name, value)
    dataset.PixelData = pixels + bytes(len(pixels) % 2)
    dataset["PixelData"].VR = "OW" if header_values["BitsAllocated"] > 8 else "OB"
    file = BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset.save_as(file, little_endian=syntax.is_little_endian, implicit_vr=False, enforce_file_format=True)
    return file.getvalue()


def hidden_high(lowest):
    """Grey values of 12 bits, and a word in the four bits that are not stored."""
    spelled = WORD * (SIDE * SIDE // (2 * len(WORD)) + 1)
    above = np.array([part for byte in spelled for part in (byte >> 4, byte & 15)][: SIDE * SIDE], "<u2")
    return (GREY12.ravel() << 4 | above if lowest else GREY12.ravel() | above << 12).astype("<u2")


def bare(words, **header):
    """A data set of grey pixels of 12 bits in words of 16."""
    dataset = Dataset()
    for name, value in {
        "Rows": SIDE,
        "Columns": SIDE,
        "BitsAllocated": 16,
        "BitsStored": 12,
        "SamplesPerPixel": 1,
        **header,
    }.items():
        setattr(dataset, name, value)
    dataset.add(DataElement("PixelData", "OW", words.tobytes()))
    return dataset


@pytest.mark.parametrize("lowest", [0, 4])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian], ids=["little", "big"])
def test_bits_that_are_not_stored_are_empty(lowest, syntax):
    kind = "<u2" if syntax.is_little_endian else ">u2"
    dataset = bare(hidden_high(lowest).astype(kind), HighBit=11 + lowest)
    leave_pixels_only(dataset, syntax)
    assert (np.frombuffer(dataset.PixelData, kind) == (GREY12.ravel() << lowest)).all()


def test_bits_of_a_colour_picture_are_empty():
    words = np.stack([hidden_high(0)] * 3, -1)
    header = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
    clean = cleaned(made(words.tobytes(), BitsAllocated=16, BitsStored=12, **header))
    out = np.frombuffer(dcmread(BytesIO(clean)).PixelData, "<u2").reshape(-1, 3)
    assert (out == GREY12.reshape(-1, 1)).all()


def test_the_sign_of_signed_pixels_stays():
    values = RNG.integers(-2048, 2047, SIDE * SIDE).astype("<i2")
    dataset = bare(values, HighBit=11, PixelRepresentation=1)
    leave_pixels_only(dataset, ExplicitVRLittleEndian)
    assert (np.frombuffer(dataset.PixelData, "<i2") == values).all()


def test_bits_of_bytes_and_the_byte_of_padding_are_empty():
    seven = RNG.integers(0, 128, SIDE * SIDE).astype(np.uint8)
    spelled = seven | np.resize(np.unpackbits(np.frombuffer(WORD, np.uint8)), seven.size) << 7
    data = made(spelled.tobytes() + b"Z", BitsStored=7)
    assert dcmread(BytesIO(cleaned(data))).PixelData == seven.tobytes() + b"\0"


def test_nothing_is_behind_the_last_pixel():
    plain = PICTURE.tobytes()
    data = made(plain + b"Z" + WORD * 3, SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0)
    clean = cleaned(data)
    assert WORD not in clean
    assert dcmread(BytesIO(clean)).PixelData == plain + b"\0"


def palette(wide, entries=256):
    """Three tables, of which half is used, with a word in entries that no pixel names."""
    tables, kind = {}, "<u2" if wide else np.uint8
    for number, colour in enumerate(("Red", "Green", "Blue")):
        table = (np.arange(entries) * (257 if wide else 1) // (number + 1)).astype(kind)
        raw = bytearray(table.tobytes())
        start = (entries // 2 + 20) * (2 if wide else 1)
        raw[start : start + len(WORD)] = WORD
        tables[f"{colour}PaletteColorLookupTableDescriptor"] = [entries, 0, 16 if wide else 8]
        tables[f"{colour}PaletteColorLookupTableData"] = bytes(raw)
    return tables


@pytest.mark.parametrize("wide", [True, False], ids=["16 bits", "8 bits"])
@pytest.mark.parametrize("surplus", [b"", WORD], ids=["as many", "too many"])
def test_entries_that_no_pixel_names_are_empty(wide, surplus):
    indices = RNG.integers(0, 128, SIDE * SIDE).astype(np.uint8)
    whole = {name: one + surplus if isinstance(one, bytes) else one for name, one in palette(wide).items()}
    header = {"PhotometricInterpretation": "PALETTE COLOR"}
    clean = cleaned(made(indices.tobytes(), **header, **whole))
    assert WORD not in clean
    plain = made(indices.tobytes(), **header, **palette(wide))
    assert (read_image(clean).pixels == read_image(plain).pixels).all()


def segmented(wide, tables, *, more=b""):
    """The same palette in segments (PS3.3, C.7.9.2): one of all entries, and something behind."""
    kind = "<u2" if wide else np.uint8
    found = {}
    for name, one in tables.items():
        if name.endswith("Descriptor"):
            found[name] = one
            continue
        entries = np.frombuffer(one, kind)
        parts = [np.array([0, len(part), *part], kind).tobytes() for part in np.array_split(entries, 2)]
        found[f"Segmented{name}"] = b"".join(parts) + more
    return found


@pytest.mark.parametrize("wide", [True, False], ids=["16 bits", "8 bits"])
@pytest.mark.parametrize("surplus", [b"", WORD], ids=["as many", "too many"])
def test_entries_in_segments_that_no_pixel_names_are_empty(wide, surplus):
    indices = RNG.integers(0, 128, SIDE * SIDE).astype(np.uint8)
    tables = palette(wide)
    header = {"PhotometricInterpretation": "PALETTE COLOR"}
    data = made(indices.tobytes(), **header, **segmented(wide, tables, more=surplus))
    assert WORD in data
    clean = cleaned(data)
    assert WORD not in clean
    assert "SegmentedRedPaletteColorLookupTableData" not in dcmread(BytesIO(clean))
    plain = read_image(made(indices.tobytes(), **header, **tables)).pixels
    assert (read_image(data).pixels == plain).all()
    assert (read_image(clean).pixels == plain).all()


BESIDE = {f"Segmented{colour}PaletteColorLookupTableData": WORD for colour in ("Red", "Green", "Blue")}


def test_segments_beside_a_palette_go():
    clean = cleaned(made(bytes(SIDE * SIDE), PhotometricInterpretation="PALETTE COLOR", **palette(True), **BESIDE))
    assert WORD not in clean
    assert WORD not in cleaned(made(bytes(SIDE * SIDE), **BESIDE))


@pytest.mark.parametrize(
    ("words", "entries"),
    [
        ([0, 2, 10, 20, 1, 4, 100, 0, 2, 7, 8], [10, 20, 40, 60, 80, 100, 7, 8]),
        ([0, 2, 10, 20, 1, 2, 30, 2, 2, 0, 0], [10, 20, 25, 30, 10, 20, 25, 30]),
        ([0, 8, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9], [1, 2, 3, 4, 5, 6, 7, 8]),
    ],
    ids=["linear", "copied", "longer"],
)
@pytest.mark.parametrize("wide", [True, False], ids=["16 bits", "8 bits"])
def test_segments_of_each_kind_are_followed(words, entries, wide):
    kind = "<u2" if wide else np.uint8
    words = words if wide or words[7] != 2 else [*words, 0, 0]  # an offset has four bytes
    indices = np.arange(8, dtype=np.uint8)
    data = np.array(words, kind).tobytes()
    tables = {f"Segmented{colour}PaletteColorLookupTableData": data for colour in ("Red", "Green", "Blue")}
    tables |= {
        f"{colour}PaletteColorLookupTableDescriptor": [8, 0, 16 if wide else 8]
        for colour in ("Red", "Green", "Blue")
    }
    pixels = np.resize(indices, SIDE * SIDE).tobytes()
    file = made(pixels, PhotometricInterpretation="PALETTE COLOR", **tables)
    for one in (file, cleaned(file)):
        assert read_image(one).pixels.reshape(-1, 3)[:8, 0].tolist() == entries


@pytest.mark.parametrize(
    "words", [[2, 1, 0, 0], [0, 1, 5, 2, 65535, 6, 0], [1, 3, 5], [9, 9, 9], [0, 9, 1], [], [0, 1, 5, 2, 9, 99, 0]]
)
def test_segments_that_cannot_be_followed_are_refused_by_name(words):
    data = np.array(words, "<u2").tobytes()
    tables = {f"Segmented{colour}PaletteColorLookupTableData": data for colour in ("Red", "Green", "Blue")}
    tables |= {f"{colour}PaletteColorLookupTableDescriptor": [8, 0, 16] for colour in ("Red", "Green", "Blue")}
    file = made(bytes(SIDE * SIDE), PhotometricInterpretation="PALETTE COLOR", **tables)
    for attempt in (read_image, cleaned):
        with pytest.raises(BadInput, match=r"Segmented Red Palette Color Lookup Table Data \(0028,1221\)"):
            attempt(file)


def coded(syntax):
    """A data set with a picture of this transfer syntax, and its one fragment."""
    dataset = dcmread(BytesIO(dicom(DRAWN, identity=1)))
    if syntax != JPEGBaseline8Bit:
        dataset = dcmread(BytesIO(dicom(DRAWN, identity=1, sop_class=SECONDARY_CAPTURE, jpeg=False)))
        dataset.compress(syntax, generate_instance_uid=False)
    (fragment,) = list(generate_fragments(dataset.PixelData))[-1:]
    return dataset, fragment


SYNTAXES = [JPEGBaseline8Bit, JPEG2000Lossless, JPEGLSLossless, RLELossless]


def item(content):
    return b"\xfe\xff\x00\xe0" + struct.pack("<I", len(content)) + content


def saved(dataset, pixels):
    element = DataElement(0x7FE00010, "OB", pixels)
    element.is_undefined_length = True
    dataset["PixelData"] = element
    file = BytesIO()
    dataset.save_as(file)
    return file.getvalue()


HIDDEN = {
    "the offset table": lambda one: item(WORD) + item(one),
    "behind the picture": lambda one: item(b"") + item(one + WORD),
    "a fragment of its own": lambda one: item(b"") + item(one) + item(WORD),
    "an entry too many": lambda one: item(b"\0\0\0\0" + WORD) + item(one),
}


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda syntax: syntax.name)
@pytest.mark.parametrize("hide", HIDDEN.values(), ids=HIDDEN)
def test_nothing_is_around_compressed_pictures(syntax, hide):
    dataset, one = coded(syntax)
    before = read_image(saved(dataset, encapsulate([one]))).pixels
    data = saved(dataset, hide(one))
    assert WORD in data
    clean = cleaned(data)
    assert WORD not in clean
    assert (read_image(clean).pixels == before).all()


def behind_samples(stream, hidden):
    """A compressed picture with something behind its last sample, within its coded data."""
    end = len(stream.rstrip(b"\0")) - 2
    made = bytearray(stream[:end] + hidden + stream[end:])
    tile = made.find(b"\xff\x90")  # of JPEG 2000, whose tile-parts say how long they are
    if stream.startswith(b"\xff\x4f") and (length := int.from_bytes(made[tile + 6 : tile + 10], "big")):
        made[tile + 6 : tile + 10] = (length + len(hidden)).to_bytes(4, "big")
    return bytes(made)


@pytest.mark.parametrize("syntax", [JPEGBaseline8Bit, JPEG2000Lossless, JPEGLSLossless], ids=lambda one: one.name)
@pytest.mark.parametrize("hidden", [WORD, WORD * 20, WORD + bytes(70)], ids=["a word", "words", "and zeros"])
def test_nothing_is_behind_the_last_sample_of_coded_data(syntax, hidden):
    dataset, one = coded(syntax)
    data = saved(dataset, encapsulate([behind_samples(one, hidden)]))
    before = read_image(data).pixels
    assert (before == read_image(saved(dataset, encapsulate([one]))).pixels).all()
    if syntax == JPEGLSLossless:
        with pytest.raises(BadInput, match="Pixel Data") as refused:
            cleaned(data)
        assert refused.value.reason == "not_deidentified"
        return
    clean = cleaned(data)
    assert WORD not in clean
    assert (read_image(clean).pixels == before).all()


@pytest.mark.parametrize(
    "options", [{"progressive": True}, {"restart_marker_blocks": 7}], ids=["scans", "restarts"]
)
def test_nothing_is_behind_the_samples_of_any_scan(options):
    buffer = BytesIO()
    Image.fromarray(DRAWN.image).save(buffer, "JPEG", quality=92, **options)
    stream = buffer.getvalue()
    ends = [at for _, at, _ in tails._segments(stream)]
    hidden = bytearray(stream)
    for at in reversed(ends[:: max(1, len(ends) // 4)]):
        hidden[at:at] = WORD
    dataset, _ = coded(JPEGBaseline8Bit)
    data = saved(dataset, encapsulate([bytes(hidden)]))
    clean = cleaned(data)
    assert WORD in data
    assert WORD not in clean
    assert (read_image(clean).pixels == read_image(saved(dataset, encapsulate([stream]))).pixels).all()


@pytest.mark.parametrize("seed", range(6))
def test_coded_pictures_without_a_tail_stay_bit_for_bit(seed):
    drawn = phantom(seed, height=64 + seed, width=80)
    for options in ({}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_blocks": 3}):
        buffer = BytesIO()
        Image.fromarray(drawn.image).save(buffer, "JPEG", quality=70 + 5 * seed, **options)
        data = encapsulate([buffer.getvalue()])
        assert tails.without_tails(data) == data


def test_nothing_is_beside_the_runs_of_a_frame():
    dataset, one = coded(RLELossless)
    count = int.from_bytes(one[:4], "little")
    offsets = struct.unpack_from(f"<{count}I", one, 4)
    shifted = bytearray(one[:64]) + WORD + one[64:] + WORD
    struct.pack_into(f"<{count}I", shifted, 4, *(offset + len(WORD) for offset in offsets))
    shifted[64 - 8 : 64] = WORD[:8]
    data = saved(dataset, item(b"") + item(bytes(shifted)))
    assert data.count(WORD) == 2
    clean = cleaned(data)
    assert WORD[:8] not in clean
    assert (read_image(clean).pixels == read_image(saved(dataset, encapsulate([one]))).pixels).all()


def test_nothing_is_behind_a_codestream_whose_last_tile_part_has_no_length():
    dataset, one = coded(JPEG2000Lossless)
    at = one.rindex(b"\xff\x90")
    open_end = one[: at + 6] + bytes(4) + one[at + 10 :]
    clean = cleaned(saved(dataset, item(b"") + item(open_end + WORD)))
    assert WORD not in clean
    assert (read_image(clean).pixels == read_image(saved(dataset, encapsulate([one]))).pixels).all()


@pytest.mark.parametrize("marker", [0x02, 0xBF, 0xF0, 0xFD, 0xE5, 0xFE])
def test_nothing_is_in_segments_that_no_decoder_reads(marker):
    dataset, one = coded(JPEGBaseline8Bit)
    segment = bytes([0xFF, marker]) + struct.pack(">H", 2 + len(WORD)) + WORD
    assert WORD not in cleaned(saved(dataset, item(b"") + item(one[:2] + segment + one[2:])))


def test_offset_tables_of_several_fragments_stay_right():
    dataset, one = coded(JPEGBaseline8Bit)
    half = len(one) // 2 // 2 * 2
    table = item(struct.pack("<2I", 0, len(one) + 16))
    dataset.NumberOfFrames = 2
    clean = cleaned(saved(dataset, table + 2 * (item(one[:half]) + item(one[half:]))))
    assert dcmread(BytesIO(clean)).PixelData.startswith(table)


NUMBERS = {
    "WindowCenter": [str(byte) for byte in WORD],
    "InstanceNumber": [str(byte) for byte in WORD],
    "SeriesNumber": ["1", "2"],
    "PixelAspectRatio": ["1", "1", "90", "113"],
    "SmallestImagePixelValue": list(WORD),
    "LossyImageCompressionRatio": [str(byte) for byte in WORD],
    "StudyDate": ["20240305", "20240306"],
}


@pytest.mark.parametrize("keyword", NUMBERS)
def test_lists_of_numbers_spell_nothing(keyword):
    dataset = dcmread(BytesIO(dicom(DRAWN, identity=1)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        setattr(dataset, keyword, NUMBERS[keyword])
        if keyword == "SmallestImagePixelValue":
            dataset[keyword].VR = "US"
        file = BytesIO()
        dataset.save_as(file)
    assert not dcmread(BytesIO(cleaned(file.getvalue()))).get(keyword)
