"""What an image can do: import all modules of our packages, decode all files of a folder.

It is run in the image, and beside it, where nothing is left out of any package; both have to say the same of the
files. Needs nothing but the image's own packages.

    python inside.py FOLDER PACKAGE...

Prints JSON: ``modules``, how many were imported, ``broken``, by name why not, and ``files``, by name a digest of
the pixels with what was noted of them, or the reason of the refusal.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import pkgutil
import sys
from collections.abc import Iterator
from pathlib import Path

from dermbatch.errors import BadInput
from dermbatch.images.imagefile import read_image

_MOST = 10**8  # pixels
_API = "dermbatch.client"  # for users of Python, who have the orchestrator's packages, too
_ELSEWHERE = {"onnxruntime"}  # of the local stack
_DECODERS = ["jpeg_ls", "openjpeg", "pi_heif", "pylibjpeg", "rle"]  # which others look for


def names(package: str) -> Iterator[str]:
    """All modules of a package, except for the API where what is below it is not there."""
    yield package
    place = importlib.import_module(package).__path__
    for found in pkgutil.walk_packages(place, f"{package}.", onerror=lambda _: None):
        if found.name != _API:
            yield found.name


def broken(modules: list[str]) -> dict[str, str]:
    """Why modules cannot be imported, by name; ``__main__`` is not started by it."""
    why = {}
    for module in modules:
        try:
            importlib.import_module(module)
        except Exception as error:
            if not isinstance(error, ModuleNotFoundError) or error.name not in _ELSEWHERE:
                why[module] = repr(error)
    return why


def decoded(path: Path) -> str:
    """What comes of a file: a digest, or why there is none."""
    try:
        source = read_image(path.read_bytes(), max_pixels=_MOST)
    except BadInput as refused:
        return refused.reason
    return f"{hashlib.sha256(source.pixels).hexdigest()} {source.pixels.shape} {','.join(source.notes)}"


def main(folder: Path, packages: list[str]) -> None:
    """Print what is found."""
    modules = [*_DECODERS, *(name for package in packages for name in names(package))]
    files = {path.name: decoded(path) for path in sorted(folder.iterdir())}
    print(json.dumps({"modules": len(modules), "broken": broken(modules), "files": files}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
