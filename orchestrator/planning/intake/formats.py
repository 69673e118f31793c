"""Known but unsupported formats of pictures and archives, so that each such file fails with its name."""

from __future__ import annotations

from itertools import chain
from pathlib import PurePosixPath

from dermbatch.archives.archive import is_archive_name
from dermbatch.errors import BadInput

# fmt: off
_PICTURES = {
    "HEIF or HEIC": (".heic", ".heif", ".hif", ".heics"),
    "AVIF": (".avif", ".avifs"),
    "JPEG 2000": (".jp2", ".j2k", ".j2c", ".jpf", ".jpx", ".jpm", ".jpc"),
    "JPEG XL": (".jxl",), "JPEG XR": (".jxr", ".wdp", ".hdp"), "JPEG-LS": (".jls",),
    "a camera's raw format": (
        ".dng", ".nef", ".nrw", ".cr2", ".cr3", ".crw", ".arw", ".srf", ".sr2", ".orf", ".rw2", ".raf", ".pef",
        ".srw", ".x3f", ".3fr", ".iiq", ".mos", ".mrw", ".kdc", ".dcr", ".erf", ".rwl", ".gpr",
    ),
    "Photoshop": (".psd", ".psb"), "GIMP": (".xcf",), "OpenEXR": (".exr",), "Targa": (".tga",), "PCX": (".pcx",),
    "Netpbm": (".ppm", ".pgm", ".pbm", ".pnm", ".pam"), "FITS": (".fits", ".fits.gz"),
    "a whole-slide format": (".svs", ".ndpi", ".mrxs", ".scn", ".vms", ".bif", ".czi", ".lif", ".nd2"),
    "a volume format": (".nii", ".nrrd", ".mha"),
    "QOI": (".qoi",), "SGI": (".sgi",), "DirectDraw Surface": (".dds",), "BPG": (".bpg",), "FLIF": (".flif",),
    "MNG or JNG": (".mng", ".jng"), "Radiance": (".rgbe",), "Sun raster": (".ras",), "Photo CD": (".pcd",),
    "Krita or OpenRaster": (".kra", ".ora"), "Paint Shop Pro": (".psp", ".pspimage"), "PICT": (".pict", ".pct"),
}
_TAKEN = frozenset({"HEIF or HEIC", "AVIF", "JPEG 2000", "JPEG-LS"})
"""Of those, the formats that are taken if the content is what the name says."""
_ARCHIVES = {
    "7-Zip": (".7z", ".7z.001"), "RAR": (".rar", ".r00"), "Cabinet": (".cab",), "LHA": (".lzh", ".lha"),
    "ARJ": (".arj",), "ACE": (".ace",), "StuffIt": (".sit", ".sitx"),
    "a part of a split archive": (".z01", ".zip.001"),
    "an image of a disc": (".iso", ".dmg", ".nrg"), "ZIPX": (".zipx",), "WIM": (".wim",), "cpio": (".cpio",),
    "a tar compressed in a way that is not known here": (
        ".tar.zst", ".tzst", ".tar.lz", ".tar.z", ".taz", ".tar.lzo", ".tar.lz4", ".tar.br",
    ),
}
# fmt: on
_COMPRESSED = (".zst", ".lz4", ".lzo", ".lz", ".z", ".br")
"""Compressed single files that Python's own modules do not unpack; those of pictures are reported."""
_MAGIC = {
    b"7z\xbc\xaf\x27\x1c": "7-Zip",
    b"Rar!\x1a\x07": "RAR",
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL \r\n\x87\n": "JPEG XL",
    b"8BPS": "Photoshop",
    b"FUJIFILMCCD-RAW": "a camera's raw format",
    b"gimp xcf": "GIMP",
    b"qoif": "QOI",
    b"\x01\xda\x00\x01": "SGI",
    b"\x01\xda\x01\x01": "SGI",
    b"DDS |\0\0\0": "DirectDraw Surface",
    b"BPG\xfb": "BPG",
    b"FLIF": "FLIF",
    b"\x8aMNG\r\n": "MNG or JNG",
    b"\x8bJNG\r\n": "MNG or JNG",
    b"#?RADIANCE": "Radiance",
    b"\x59\xa6\x6a\x95": "Sun raster",
}


_ENDINGS = tuple(chain(*_ARCHIVES.values(), *_PICTURES.values()))


def is_picture_name(name: str) -> bool:
    """Whether a name ends like that of a picture in one of these formats."""
    return _ending(name, _PICTURES) is not None


def unopened(name: str, head: bytes) -> BadInput | None:
    """Why an archive is not opened; none if it is no archive, or one that is opened.

    Args:
        name: Name of the file.
        head: Its first bytes; none if only its name is known.
    """
    kind = _ending(name, _ARCHIVES) or _by_bytes(head, _ARCHIVES)
    if kind is None and name.lower().endswith(_COMPRESSED):
        path = PurePosixPath(name.lower())
        if not path.stem.count(".") or _may_be_picture(path.stem):
            kind = f"compressed in a way that is not known here ({path.suffix})"
    if kind is None:
        return None
    text = f"the file is {kind}, which is not opened; unpack it, or make a zip or a tar.gz of what is in it"
    return BadInput(text, reason="unsupported_format")


def untaken(name: str, head: bytes) -> BadInput | None:
    """Why a picture whose bytes are in no other known format is not taken; none if it is no picture."""
    kind = _by_bytes(head, _PICTURES) or _ending(name, _PICTURES)
    if kind is None:
        return None
    if kind in _TAKEN:
        text = (
            f"the file is {kind} by its name, but its bytes are in no known format; copy it again, or convert "
            f"it to JPEG, PNG or TIFF"
        )
        return BadInput(text, reason="unsupported_format")
    text = f"the file is {kind} by its name or content, which is not taken; convert it to JPEG, PNG or TIFF"
    return BadInput(text, reason="unsupported_format")


def _may_be_picture(name: str) -> bool:
    suffix = PurePosixPath(name).suffix
    pictures = (".dcm", ".dicom", ".dic", ".ima", ".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp")
    return suffix in pictures or suffix[1:].isdecimal() or is_picture_name(name) or is_archive_name(name)


def _ending(name: str, kinds: dict[str, tuple[str, ...]]) -> str | None:
    lower = name.lower()
    if not lower.endswith(_ENDINGS):  # the vast majority of names
        return None
    return next((kind for kind, endings in kinds.items() if lower.endswith(endings)), None)


def _by_bytes(head: bytes, kinds: dict[str, tuple[str, ...]]) -> str | None:
    if not head:
        return None
    return next((kind for magic, kind in _MAGIC.items() if kind in kinds and head.startswith(magic)), None)
