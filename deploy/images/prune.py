"""Leave out of an environment what its image never uses; needs no package.

    python prune.py SITE_PACKAGES

A pattern that meets nothing ends it with status 1: a package has changed then, and nobody knows what it brings.
"""

from __future__ import annotations

import json
import shutil
import struct
import sys
from pathlib import Path

_CODECS = """
    aec apng avif bcn bitshuffle blosc blosc2 bmp brotli cms gif h5checksum lz4 lz4f lzf lzfse lzham lzo pglz qoi
    quantize rcomp rgbe snappy sperr spng szip tiff ultrahdr zfp zlibng zopfli
"""
_LIBRARIES = "aec aom avif blosc gif lz4 lzfse lzham lzokay SPERR snappy sz tiff uhdr zfp zopfli"

UNUSED = {
    # The cascades for faces and number plates.
    "cv2": ["data/*.xml"],
    # What compilers need, and tests.
    "numpy": ["distutils", "f2py", "core/include", "core/lib", "core/_simd.*.so", "**/tests"],
    # Pillow's way to fonts: no picture of ours has letters.
    "PIL": ["_imagingft.*.so"],
    "pillow.libs": [f"lib{name}-*" for name in ("brotlicommon", "brotlidec", "freetype", "harfbuzz", "png16")],
    # Tests with their pictures, and what the libraries beside them were made of.
    "pydicom": ["data/test_files"],
    "jpeg_ls": ["tests", "*.cpp", "*.h", "*.pyx"],
    "openjpeg": ["tests", "*.c", "*.pyx"],
    "pylibjpeg": ["**/tests"],
    "rle": ["tests", "benchmarks"],
    # How terminals draw emoji.
    "wcwidth": ["table_grapheme_overrides/_known_*.py"],
    # Formats that no image of ours comes in: tifffile asks for a codec by its name, and refuses a file without it.
    "imagecodecs": [f"_{codec}.*.so" for codec in _CODECS.split()],
    "imagecodecs.libs": [f"lib{name}*" for name in _LIBRARIES.split()],
    # Flight, other clouds' stores, ORC, names that only linkers ask for, and what compilers need.
    "pyarrow": [
        *("libarrow_flight.so*", "libarrow_python_flight.so*", "libarrow_python*.so", "libarrow_python*.so.*.*.*"),
        *(
            f"_{name}.*.so"
            for name in ("flight", "azurefs", "gcsfs", "hdfs", "orc", "dataset_orc", "pyarrow_cpp_tests")
        ),
        *("include", "includes", "src", "tests", "*.p[yx]x", "*.pxi", "**/*.pxd"),
    ],
}
"""By folder of site-packages, what goes. A folder that is not there has nothing to lose."""

KEPT = {
    # Requests to S3, and those that lead to credentials for it.
    "botocore/data": ("s3", "sts", "sso", "sso-oidc", "signin"),
    "boto3/data": ("s3",),
    # Errors of commands show lines of Python.
    "pygments/lexers": ("__init__.py", "_mapping.py", "python.py", "special.py"),
}
"""By folder of site-packages, which of its folders and modules stay."""

COMPACT = ("highdicom/_standard/module_attribute_map.json",)
"""JSON of which half is blanks."""


def prune(site: Path) -> list[str]:
    """Take out what is not used; returns patterns that met nothing."""
    idle = [
        f"{folder}/{pattern}"
        for folder, patterns in UNUSED.items()
        if (site / folder).is_dir()
        for pattern in patterns
        if not _leave_out(site / folder, pattern)
    ]
    for folder, kept in KEPT.items():
        _keep(site / folder, kept)
    for name in COMPACT:
        if (site / name).is_file():
            document = json.loads((site / name).read_bytes())
            (site / name).write_text(json.dumps(document, separators=(",", ":")), encoding="utf-8")
    for library in site.glob("**/*.so*"):
        shorten(library)
    return idle


def _leave_out(folder: Path, pattern: str) -> int:
    """Remove what is named like the pattern; returns how many there were."""
    found = list(folder.glob(pattern))
    for path in found:
        _remove(path)
    return len(found)


def _keep(folder: Path, kept: tuple[str, ...]) -> None:
    """Remove the other folders and modules of a folder, where it is there."""
    for path in list(folder.glob("*")):
        if path.name not in kept and (path.is_dir() or path.suffix == ".py"):
            _remove(path)


def shorten(library: Path) -> int:
    """Cut off what no loader reads of a shared library: its sections, where symbols of debuggers lie.

    What is mapped is told by the program headers alone (System V ABI, ELF-64 object file format, sections 2 and
    6), so the file ends behind the last of those segments, and says that it has no sections.

    Returns:
        Bytes that are gone; 0 of a file of another kind.
    """
    data = bytearray(library.read_bytes())
    if data[:6] != b"\x7fELF\x02\x01":  # 64 bits, little endian
        return 0
    first, size, count = *struct.unpack_from("<Q", data, 32), *struct.unpack_from("<HH", data, 54)
    ends: list[int] = [first + size * count]
    for number in range(count):
        offset, length = (struct.unpack_from("<Q", data, first + size * number + at)[0] for at in (8, 32))
        ends.append(offset + length)
    end = max(ends)
    struct.pack_into("<Q", data, 40, 0)
    struct.pack_into("<HH", data, 60, 0, 0)
    library.write_bytes(data[:end])
    return len(data) - end


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit("\n".join(prune(Path(sys.argv[1]))) or None)
