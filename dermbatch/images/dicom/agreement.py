"""Bringing a DICOM image's header into agreement with its pixel data: the bytes decide.

Exporters leave out elements of the Image Pixel module (PS3.3, C.7.6.3), or state values that the pixel data
refute. If the bytes prove what is right, the data set is corrected and a note says so; otherwise it is refused,
and the reason names the element. ``docs/inputs.md`` has the table.
"""

from __future__ import annotations

from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    JPEG2000TransferSyntaxes,
    JPEGLSTransferSyntaxes,
    JPEGTransferSyntaxes,
    RLELossless,
    UncompressedTransferSyntaxes,
)

from dermbatch.errors import BadInput
from dermbatch.images.dicom.encapsulated import is_encapsulated, settle_encapsulated
from dermbatch.images.dicom.header import Header, element, refuted
from dermbatch.images.dicom.native import settle_native
from dermbatch.images.dicom.palette import has_colours

_PHOTOMETRIC = frozenset(
    {"RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "PALETTE COLOR", "MONOCHROME1", "MONOCHROME2"}
)
_CODED = {*JPEGTransferSyntaxes, *JPEGLSTransferSyntaxes, *JPEG2000TransferSyntaxes, RLELossless}
_TAKEN = {
    *UncompressedTransferSyntaxes,
    *_CODED,
    *(UID(f"1.2.840.10008.1.2.4.{number}") for number in range(52, 67)),
}
"""Those that are decoded, and retired JPEG ones, whose streams identify themselves."""


def settle(dataset: Dataset) -> list[str]:
    """Correct the Image Pixel module of a data set if its pixel data prove it wrong or incomplete.

    Settling a data set again changes nothing.

    Args:
        dataset: With Pixel Data and a transfer syntax; changed in place.

    Returns:
        Notes: ``corrected_`` and the element's name.

    Raises:
        BadInput: ``corrupt``, ``truncated``, ``unsupported_format``; the message names the element.
    """
    if dataset.file_meta.TransferSyntaxUID not in _TAKEN:
        raise BadInput(
            f"{element('TransferSyntaxUID')} is not known here; convert the image to JPEG baseline or Explicit "
            f"VR Little Endian",
            reason="unsupported_transfer_syntax",
        )
    header = Header(dataset)
    little = getattr(dataset, "original_encoding", (None, None))[1]
    if little is not None and little != header.syntax.is_little_endian and not header.syntax.is_encapsulated:
        header.correct("TransferSyntaxUID", ExplicitVRLittleEndian if little else ExplicitVRBigEndian)
    if header.photometric.startswith("MONOCHROME") and has_colours(dataset):
        raise refuted("PhotometricInterpretation")
    if not (is_encapsulated(header) and settle_encapsulated(header)):
        settle_native(header)
    if header.photometric not in _PHOTOMETRIC:
        raise BadInput(
            f"{element('PhotometricInterpretation')} is not known here; convert the image to RGB",
            reason="unsupported_format",
        )
    return header.notes


def uid_name(syntax: UID) -> str:
    """A transfer syntax as messages name it."""
    return syntax.name if syntax.name != str(syntax) else "this transfer syntax"
