"""Every bad and odd input that is a file, made here, with what must come of it.

`write_corpus(folder)` writes them and returns the expected outcome by name: ``ok`` or the reason of the refusal.
A name is the path relative to the folder; an archive's member is named ``path/of.zip/member``, a frame
``path/of.dcm#frame=1``.
"""

from __future__ import annotations

import functools
import io
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from dermbatch.phantoms.phantom import phantom
from dermbatch.phantoms.samples import SECONDARY_CAPTURE, VL_PHOTOGRAPHIC, dicom

CT = "1.2.840.10008.5.1.4.1.1.2"
ULTRASOUND_FRAMES = "1.2.840.10008.5.1.4.1.1.3.1"
CAPTURED_FRAMES = "1.2.840.10008.5.1.4.1.1.7.4"
WITHOUT_PICTURE = {
    "report.dcm": "1.2.840.10008.5.1.4.1.1.88.33",
    "key objects.dcm": "1.2.840.10008.5.1.4.1.1.88.59",
    "presentation.dcm": "1.2.840.10008.5.1.4.1.1.11.1",
    "letter.dcm": "1.2.840.10008.5.1.4.1.1.104.1",
    "raw.dcm": "1.2.840.10008.5.1.4.1.1.66",
}
DRAWN = phantom(7, height=120, width=160, occlusions=("hair",))
OTHER = phantom(8, height=96, width=128, occlusions=())


def pillow(image: Image.Image, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def picture(format: str = "PNG", pixels: np.ndarray | None = None, **options: object) -> bytes:
    """The phantom (or other pixels) as the bytes of a file."""
    return pillow(Image.fromarray(DRAWN.image if pixels is None else pixels), format, **options)


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def bomb_png(side: int = 20_000) -> bytes:
    """A whole, valid, black square that is about a megabyte on disk and 1.2 GB in memory."""
    total = side * (1 + 3 * side)  # rows of filter type 0: all bytes are zero
    packer = zlib.compressobj(9)
    first = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)  # blocks that know no past ...
    again = first[2:]  # ... can be repeated, without the stream's two header bytes
    packer = zlib.compressobj(9, wbits=-15)
    last = packer.compress(bytes(total % (1 << 20))) + packer.flush()
    adler = struct.pack(">HH", total % 65521, 1)
    body = first + again * (total // (1 << 20) - 1) + last + adler
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", body) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def deep_png() -> bytes:
    """16 bit RGB; Pillow cannot write it, OpenCV can."""
    return cv2.imencode(".png", (DRAWN.image[..., ::-1].astype(np.uint16)) * 257)[1].tobytes()


def deep_tiff() -> bytes:
    return cv2.imencode(".tif", (DRAWN.image[..., ::-1].astype(np.uint16)) * 257)[1].tobytes()


def exif_rotated(orientation: int = 6) -> bytes:
    """A JPEG that is upright only after it is turned as its EXIF says."""
    turn = {6: Image.Transpose.ROTATE_90, 3: Image.Transpose.ROTATE_180, 8: Image.Transpose.ROTATE_270}[
        orientation
    ]
    exif = Image.Exif()
    exif[0x0112] = orientation
    return pillow(Image.fromarray(DRAWN.image).transpose(turn), "JPEG", quality=95, exif=exif.tobytes())


def rgba_png() -> bytes:
    """Opaque on the left, see-through on the right."""
    alpha = np.zeros(DRAWN.image.shape[:2], np.uint8)
    alpha[:, : alpha.shape[1] // 2] = 255
    return picture("PNG", np.dstack([DRAWN.image, alpha]))


def animated(format: str) -> bytes:
    frames = [Image.fromarray(p.image) for p in (DRAWN, DRAWN)]
    frames[1] = frames[1].rotate(90)
    return pillow(frames[0], format, save_all=True, append_images=frames[1:], duration=100)


@functools.cache
def _dicom(sop_class: str, jpeg: bool) -> bytes:
    return dicom(DRAWN, identity=7, sop_class=sop_class, jpeg=jpeg)


def changed_dicom(
    change: Callable[[Dataset], None], *, jpeg: bool = False, sop_class: str = VL_PHOTOGRAPHIC
) -> bytes:
    """The phantom as DICOM with something changed."""
    dataset = pydicom.dcmread(io.BytesIO(_dicom(sop_class, jpeg)))
    change(dataset)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def ct_slice() -> bytes:
    """A small CT slice: 12 bit grey, signed, Hounsfield units."""

    def change(dataset: Dataset) -> None:
        dataset.SOPClassUID = CT
        dataset.Modality = "CT"
        dataset.SamplesPerPixel = 1
        del dataset.PlanarConfiguration
        dataset.PhotometricInterpretation = "MONOCHROME2"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
        dataset.PixelRepresentation = 1
        dataset.PixelData = (DRAWN.image[..., 0].astype(np.int16) * 8 - 1024).tobytes()
        dataset["PixelData"].VR = "OW"

    return changed_dicom(change)


def frames(*pictures: np.ndarray, sop_class: str = CAPTURED_FRAMES, declared: int | None = None) -> bytes:
    """Pictures, as large as the phantom, as the frames of one file; it may say that there are others."""

    def change(dataset: Dataset) -> None:
        dataset.SOPClassUID = sop_class
        dataset.NumberOfFrames = len(pictures) if declared is None else declared
        dataset.PixelData = b"".join(picture.tobytes() for picture in pictures)
        dataset["PixelData"].VR = "OB"

    return changed_dicom(change)


def _report(sop_class: str) -> bytes:
    def change(dataset: Dataset) -> None:
        _without_pixels(dataset)
        dataset.SOPClassUID = sop_class
        dataset.Modality = "SR"

    return changed_dicom(change)


def _inside(dataset: Dataset) -> None:
    dataset.BodyPartExamined = "BRAIN"


def dicomdir(*files: tuple[str, ...] | str) -> bytes:
    """A DICOMDIR that names these files, each by the components of its path."""
    file = io.BytesIO()
    with pydicom.config.disable_value_validation():
        directory = Dataset()
        directory.FileSetID = "EXPORT"
        directory.DirectoryRecordSequence = []
        for parts in files:
            record = Dataset()
            record.DirectoryRecordType = "IMAGE"
            record.ReferencedFileID = list(parts) if isinstance(parts, tuple) else parts
            directory.DirectoryRecordSequence.append(record)
        directory.file_meta = FileMetaDataset()
        directory.file_meta.MediaStorageSOPClassUID = UID("1.2.840.10008.1.3.10")
        directory.file_meta.MediaStorageSOPInstanceUID = UID("1.2.3")
        directory.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        directory.save_as(file, enforce_file_format=True)
    return file.getvalue()


def tarred(files: dict[str, bytes], mode: str = "w", format: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar; members whose content is ``link``, ``hard``, ``pipe`` or ``device`` are that."""
    special = {
        b"link": tarfile.SYMTYPE,
        b"hard": tarfile.LNKTYPE,
        b"pipe": tarfile.FIFOTYPE,
        b"device": tarfile.CHRTYPE,
    }
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode, format=format) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            if data in special:
                info.type, info.linkname = special[data], "/etc/passwd"
            info.size = 0 if data in special else len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def _without_pixels(dataset: Dataset) -> None:
    del dataset.PixelData


def _unknown_syntax(dataset: Dataset) -> None:
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.102"  # MPEG-4


def bare_dicom() -> bytes:
    """Without preamble and meta header, implicit VR, as old exports are."""
    dataset = pydicom.dcmread(io.BytesIO(dicom(DRAWN, identity=9, sop_class=SECONDARY_CAPTURE, jpeg=False)))
    plain = Dataset()
    plain.update(dataset)
    file = io.BytesIO()
    plain.save_as(file, implicit_vr=True, little_endian=True)
    return file.getvalue()


def zipped(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return file.getvalue()


def encrypted_zip(name: str, data: bytes) -> bytes:
    """Stored, with the encryption flag set in both headers; the content is as good as noise."""
    archive = bytearray(zipped({name: data}, zipfile.ZIP_STORED))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        archive[archive.index(signature) + offset] |= 1
    return bytes(archive)


def bad_crc_zip(name: str, data: bytes) -> bytes:
    archive = bytearray(zipped({name: data}, zipfile.ZIP_STORED))
    archive[archive.index(data[:64]) + 40] ^= 0xFF
    return bytes(archive)


def lying_bomb_zip(name: str, size: int) -> bytes:
    """A member that unpacks to ``size`` zeros while every header says it has 64 kB."""
    archive = bytearray(zipped({name: bytes(size)}))
    declared = struct.pack("<I", 1 << 16)
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = archive.index(signature) + offset
        archive[at : at + 4] = declared
    return bytes(archive)


def rasters() -> dict[str, tuple[bytes, str]]:
    jpeg = picture("JPEG", quality=90)
    grey = Image.fromarray(DRAWN.image).convert("L")
    png = picture("PNG")
    return {
        "plain.jpg": (jpeg, "ok"),
        "plain.png": (png, "ok"),
        "plain.tif": (picture("TIFF", compression="tiff_lzw"), "ok"),
        "plain.bmp": (picture("BMP"), "ok"),
        "plain.webp": (picture("WEBP", lossless=True), "ok"),
        "png named.jpg": (png, "ok"),
        "progressive.jpg": (picture("JPEG", progressive=True), "ok"),
        "empty.jpg": (b"", "empty_file"),
        "text.jpg": (b"This is not an image.\n" * 20, "not_an_image"),
        "truncated.jpg": (jpeg[: len(jpeg) // 2], "truncated"),
        "header only.jpg": (jpeg[:30], "truncated"),
        "truncated.png": (png[: len(png) // 2], "truncated"),
        "truncated.tif": (picture("TIFF")[: -len(png)], "truncated"),
        "damaged.png": (png[:200] + bytes(40) + png[240:], "corrupt"),
        "one pixel.png": (picture("PNG", np.zeros((1, 1, 3), np.uint8)), "too_small"),
        "one pixel.jpg": (picture("JPEG", np.zeros((1, 1, 3), np.uint8)), "too_small"),
        "bomb.png": (bomb_png(), "too_large"),
        "grey.png": (pillow(grey, "PNG"), "ok"),
        "grey.jpg": (pillow(grey, "JPEG", quality=95), "ok"),
        "deep.png": (deep_png(), "ok"),
        "deep.tif": (deep_tiff(), "ok"),
        "deep grey.png": (pillow(Image.fromarray(np.asarray(grey).astype(np.uint16) * 257), "PNG"), "ok"),
        "cmyk.jpg": (pillow(Image.fromarray(DRAWN.image).convert("CMYK"), "JPEG", quality=95), "ok"),
        "rgba.png": (rgba_png(), "ok"),
        "palette.png": (pillow(Image.fromarray(DRAWN.image).quantize(64), "PNG"), "ok"),
        "turned.jpg": (exif_rotated(), "ok"),
        "float.tif": (pillow(grey.convert("F"), "TIFF"), "unsupported_format"),
        "animated.gif": (animated("GIF"), "animated"),
        "animated.webp": (animated("WEBP"), "animated"),
        "animated.png": (animated("PNG"), "animated"),
        "still.gif": (picture("GIF"), "unsupported_format"),
        "pages.tif": (animated("TIFF"), "multi_frame"),
        "letter.jpg": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "unsupported_format"),
    }


def dicoms() -> dict[str, tuple[bytes, str]]:
    good = dicom(DRAWN, identity=7)
    return {
        "photo.dcm": (good, "ok"),
        "capture.dcm": (dicom(DRAWN, identity=7, sop_class=SECONDARY_CAPTURE, jpeg=False), "ok"),
        "dicom without suffix": (good, "ok"),
        "bare.dcm": (bare_dicom(), "ok"),
        "frames.dcm": (frames(DRAWN.image, DRAWN.image[:, ::-1]), "multi_frame"),
        "film.dcm": (frames(DRAWN.image, declared=1001), "multi_frame"),
        "ultrasound.dcm": (frames(DRAWN.image, DRAWN.image, sop_class=ULTRASOUND_FRAMES), "not_a_skin_image"),
        "brain.dcm": (changed_dicom(_inside), "not_a_skin_image"),
        "1.2.840.99999.7.1234": (good, "ok"),
        **{name: (_report(sop_class), "no_pixel_data") for name, sop_class in WITHOUT_PICTURE.items()},
        "ct.dcm": (ct_slice(), "not_a_skin_image"),
        "no pixels.dcm": (changed_dicom(_without_pixels), "no_pixel_data"),
        "movie.dcm": (changed_dicom(_unknown_syntax, jpeg=True), "unsupported_transfer_syntax"),
        "truncated.dcm": (good[: len(good) // 2], "truncated"),
        "truncated raw.dcm": (changed_dicom(lambda _: None)[:-500], "truncated"),
    }


def zips() -> dict[str, tuple[bytes, dict[str, str] | str]]:
    """Archives with what must come of their members, or of the archive as a whole."""
    good, other = picture("PNG"), picture("PNG", OTHER.image)
    whole = zipped({"a.png": good, "b.png": other})
    return {
        "good.zip": (
            zipped({"a/one.png": good, "b/one.png": other, "__MACOSX/._one.png": b"x", ".hidden.png": good}),
            {"a/one.png": "ok", "b/one.png": "ok"},
        ),
        "slip.zip": (
            zipped({"../escape.png": good, "/absolute.png": good, "fine.png": good}),
            {"../escape.png": "zip_slip", "/absolute.png": "zip_slip", "fine.png": "ok"},
        ),
        "locked.zip": (encrypted_zip("secret.png", good), {"secret.png": "zip_encrypted"}),
        "bomb.zip": (
            zipped({"zeros.png": bytes(32 << 20), "a.png": good}),
            {"zeros.png": "zip_bomb", "a.png": "ok"},
        ),
        "nested.zip": (
            zipped({"inner.zip": whole, "a.png": good}),
            {"inner.zip/a.png": "ok", "inner.zip/b.png": "ok", "a.png": "ok"},
        ),
        "lying.zip": (lying_bomb_zip("zeros.png", 8 << 20), {"zeros.png": "zip_corrupt"}),
        "bad sum.zip": (bad_crc_zip("a.png", good), {"a.png": "zip_corrupt"}),
        "names.zip": (
            zipped({'Müller\'s "mole".png': good, "日本/ほくろ.png": other, "bad.png": b"no image"}),
            {'Müller\'s "mole".png': "ok", "日本/ほくろ.png": "ok", "bad.png": "not_an_image"},
        ),
        "cut.zip": (whole[: len(whole) // 2], "zip_corrupt"),
    }


def tars() -> dict[str, tuple[bytes, dict[str, str] | str]]:
    """As :func:`zips`, for tar archives."""
    good, other = picture("PNG"), dicom(OTHER, identity=8)
    files = {"a/one.png": good, "b/IM0001": other, "a/._one.png": b"x"}
    both = {"a/one.png": "ok", "b/IM0001": "ok"}
    whole = tarred(files)
    inner = tarred({"deep.zip": zipped({"a.png": good})}, "w:gz")
    return {
        "good.tar": (whole, both),
        "old.tar": (tarred(files, format=tarfile.USTAR_FORMAT), both),
        "good.tar.gz": (tarred(files, "w:gz"), both),
        "good.tgz": (tarred(files, "w:gz"), both),
        "nested.tar": (
            tarred({"x/inner.tgz": inner, "cut.zip": zipped(files)[:200], "a.png": good}),
            {"x/inner.tgz/deep.zip/a.png": "ok", "cut.zip": "zip_corrupt", "a.png": "ok"},
        ),
        "special.tar": (
            tarred({"a.png": b"link", "b.png": b"hard", "c.png": b"pipe", "d.png": b"device", "e.png": good}),
            {**dict.fromkeys(("a.png", "b.png", "c.png", "d.png"), "tar_special"), "e.png": "ok"},
        ),
        "slip.tar": (
            tarred({"../escape.png": good, "/absolute.png": good, "fine.png": good}),
            {"../escape.png": "zip_slip", "/absolute.png": "zip_slip", "fine.png": "ok"},
        ),
        "cut.tar": (whole[:100], "zip_corrupt"),
        "cut.tgz": (tarred(files, "w:gz")[:15], "zip_corrupt"),
    }


def write_corpus(folder: Path) -> dict[str, str]:
    """Write every case below ``folder`` and return the expected outcomes by name."""
    expected: dict[str, str] = {}

    def put(name: str, data: bytes, outcome: str | None) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        if outcome is not None:
            expected[name] = outcome

    for group, cases in (("raster", rasters()), ("dicom", dicoms())):
        for name, (data, outcome) in cases.items():
            put(f"{group}/{name}", data, outcome)
    del expected["dicom/frames.dcm"]  # each of its frames is an image
    expected |= {"dicom/frames.dcm#frame=1": "ok", "dicom/frames.dcm#frame=2": "ok"}
    put("dicom/DICOMDIR", dicomdir(("PHOTO.DCM",)), None)  # passed over
    for kind, archives in (("zip", zips()), ("tar", tars())):
        for name, (data, outcomes) in archives.items():
            put(f"{kind}/{name}", data, outcomes if isinstance(outcomes, str) else None)
            if not isinstance(outcomes, str):
                expected |= {f"{kind}/{name}/{member}": outcome for member, outcome in outcomes.items()}
    other = picture("PNG", OTHER.image)
    put("names/first/image.png", picture("PNG"), "ok")  # the same name in two folders
    put("names/second/image.png", other, "ok")
    put("names/same content.png", other, "ok")  # the same content under two names
    for name in (
        "with  spaces .png",
        "Größe µm – 日本.png",
        "quote'double\".png",
        "percent%20+&?#=.png",
        "-dash.png",
    ):
        put(f"names/{name}", picture("PNG"), "ok")
    put("names/UPPER.JPEG", picture("JPEG"), "ok")
    return expected


def write_unreadable(folder: Path) -> dict[str, str]:
    """Add files that exist but cannot be read, also for root: a dangling link and a link to itself."""
    (folder / "dangling.png").symlink_to(folder / "nowhere.png")
    (folder / "loop.png").symlink_to(folder / "loop.png")
    return {"dangling.png": "unreadable", "loop.png": "unreadable"}
