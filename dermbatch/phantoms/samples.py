"""Sample images on disk: phantoms in the formats that the system reads, with their true masks beside them."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEGBaseline8Bit, generate_uid

from dermbatch.phantoms.lesion import Kind
from dermbatch.phantoms.phantom import Phantom, phantom

Rgb = NDArray[np.uint8]

VL_PHOTOGRAPHIC = "1.2.840.10008.5.1.4.1.1.77.1.4"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"

_FORMATS = (".jpg", ".png", ".dcm", ".jpg", ".tif", ".jpg", ".webp", ".bmp", "_sc.dcm", ".jpg")
_SIZES = ((767, 1022), (480, 640), (600, 600), (1129, 1504), (450, 600))  # as public archives have them


def write_samples(
    folder: Path, count: int, seed: int = 0, *, truth: Path | None = None, kind: Kind | None = None
) -> list[Path]:
    """Write a mixed folder of sample images, the same for the same arguments.

    Args:
        folder: Where the images go; made if needed.
        count: Number of images: JPEG, PNG, TIFF, BMP, WebP, and DICOM as VL Photographic Image with JPEG
            inside and as uncompressed Secondary Capture.
        seed: Seed of the first phantom; the others follow.
        truth: Where the true masks go: ``<name>_lesion.png``, ``<name>_occlusion.png`` (0 or 255) and
            ``<name>_clean.png``. Not inside ``folder``, or they would be taken for images. None for no truth.
        kind: What all lesions look like; a mixture where none is given.

    Returns:
        The images' paths, in order.
    """
    if truth is not None and truth.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"the truth must lie outside the samples' folder {folder}")
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for i in range(count):
        height, width = _SIZES[i % len(_SIZES)]
        drawn = phantom(seed + i, height=height, width=width, kind=kind)
        name = f"phantom_{seed + i:04d}"
        suffix = _FORMATS[i % len(_FORMATS)]
        path = folder / f"{name}{suffix}"
        path.write_bytes(encode(drawn, suffix, identity=seed + i))
        written.append(path)
        if truth is not None:
            truth.mkdir(parents=True, exist_ok=True)
            for part, pixels in (("lesion", drawn.lesion), ("occlusion", drawn.occlusion)):
                (truth / f"{name}_{part}.png").write_bytes(
                    _encoded(".png", pixels.astype(np.uint8) * np.uint8(255))
                )
            (truth / f"{name}_clean.png").write_bytes(_encoded(".png", drawn.clean))
    return written


def encode(drawn: Phantom, suffix: str, *, identity: int) -> bytes:
    """A phantom as the bytes of a file with this suffix; ``identity`` makes the UIDs of DICOM files."""
    if suffix == ".dcm":
        return dicom(drawn, identity=identity)
    if suffix == "_sc.dcm":
        return dicom(drawn, identity=identity, sop_class=SECONDARY_CAPTURE, jpeg=False)
    return _encoded(suffix, drawn.image)


def _encoded(suffix: str, pixels: Rgb, *options: int) -> bytes:
    """Pixels (RGB or grey) as the bytes of an image file."""
    done, data = cv2.imencode(suffix, pixels[..., ::-1] if pixels.ndim == 3 else pixels, options)
    if not done:
        raise ValueError(f"OpenCV cannot write {suffix}")
    return data.tobytes()


def dicom(drawn: Phantom, *, identity: int, sop_class: str = VL_PHOTOGRAPHIC, jpeg: bool = True) -> bytes:
    """A phantom as a DICOM file of a patient who does not exist.

    Args:
        drawn: The phantom.
        identity: Makes the UIDs: the same number, the same UIDs.
        sop_class: VL Photographic Image Storage or Secondary Capture Image Storage.
        jpeg: Encapsulated JPEG baseline (YBR_FULL_422), else Explicit VR Little Endian RGB.

    Returns:
        The file with preamble and meta header.
    """
    height, width = drawn.image.shape[:2]
    uid = {
        part: UID(generate_uid(entropy_srcs=["dermbatch phantom", part, str(identity)]))
        for part in ("1", "2", "3")
    }
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(sop_class)
    meta.MediaStorageSOPInstanceUID = uid["3"]
    meta.TransferSyntaxUID = JPEGBaseline8Bit if jpeg else ExplicitVRLittleEndian
    data = Dataset()
    data.file_meta = meta
    data.SpecificCharacterSet = "ISO_IR 192"
    data.ImageType = ["ORIGINAL", "PRIMARY"]
    data.SOPClassUID = sop_class
    data.SOPInstanceUID = uid["3"]
    data.StudyInstanceUID = uid["1"]
    data.SeriesInstanceUID = uid["2"]
    data.StudyDate = data.ContentDate = data.AcquisitionDateTime = "20240101"
    data.StudyTime = data.ContentTime = "120000"
    data.Modality = "XC"
    data.ConversionType = "SYN"
    data.Manufacturer = "Dermbatch"
    data.PatientName = "Phantom^Drawn"
    data.PatientID = f"PHANTOM-{identity:04d}"
    data.PatientBirthDate = data.PatientSex = data.ReferringPhysicianName = ""
    data.StudyID = data.AccessionNumber = data.Laterality = ""
    data.SeriesNumber = data.InstanceNumber = 1
    data.BodyPartExamined = "SKIN"
    data.LossyImageCompression = "01" if jpeg else "00"
    data.Rows, data.Columns = height, width
    data.SamplesPerPixel = 3
    data.PlanarConfiguration = 0
    data.BitsAllocated = data.BitsStored = 8
    data.HighBit = 7
    data.PixelRepresentation = 0
    data.PixelSpacing = [f"{mm:.8f}" for mm in drawn.pixel_spacing_mm]
    if jpeg:
        data.PhotometricInterpretation = "YBR_FULL_422"
        options = (
            cv2.IMWRITE_JPEG_QUALITY,
            92,
            cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
            cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422,
        )
        frame = _encoded(".jpg", drawn.image, *options)
        data.LossyImageCompressionMethod = "ISO_10918_1"
        data.LossyImageCompressionRatio = f"{drawn.image.nbytes / len(frame):.2f}"
        data.PixelData = encapsulate([frame])
        data["PixelData"].VR = "OB"
    else:
        data.PhotometricInterpretation = "RGB"
        pixels = drawn.image.tobytes()
        data.PixelData = pixels + b"\0" * (len(pixels) % 2)
        data["PixelData"].VR = "OB"
    file = BytesIO()
    data.save_as(file, enforce_file_format=True)
    return file.getvalue()
