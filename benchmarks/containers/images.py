"""Build all images of ``deploy`` with podman, on a base of Debian's packages, and stand-ins for foreign images.

The base gets the name of the image that the Dockerfiles ask for, so that no registry is asked for anything; what
stands in them is built as it is. A private index, or certificates of your own: ``PIP_CONFIG_FILE`` names a
pip.conf, ``SSL_CERT_FILE`` a file of certificates; podman itself hands on ``http_proxy`` and ``https_proxy``.

What is left out of packages must not be missed: in each image all modules are imported, and files of all codings
come out as they do here (:mod:`benchmarks.containers.proof`). The last line is ``images=3 seconds=... worker=...
orchestrator=...`` with sizes in MB (of 1,000,000 bytes).

    python -m benchmarks.containers.images [--twice]
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from benchmarks.containers.engine import ROOT, inspect, podman, run
from benchmarks.containers.formats import write_formats
from benchmarks.containers.proof import PACKAGES, lacking
from dermbatch import __version__

OURS = {
    "worker": f"ghcr.io/dermbatch/worker:{__version__}",
    "orchestrator": f"ghcr.io/dermbatch/orchestrator:{__version__}",
    "triton": f"ghcr.io/dermbatch/triton:{__version__}",
}
STANDINS = {
    "valkey": "docker.io/valkey/valkey",
    "minio": "quay.io/minio/minio",
    "prometheus": "docker.io/prom/prometheus",
}
"""Target of the stand-ins' Dockerfile to the image of compose.yaml, without its tag."""

# Debian without what its slim images leave out, too; `python` as the Python image has it.
_PACKAGES = "python-is-python3,python3-venv,ca-certificates"
_LEFT_OUT = ("doc", "man", "locale", "info")
_SUITE = "bookworm"
# Merges /usr as slim images have it; else a package does it that brings Perl.
_MERGED = "--hook-dir=/usr/share/mmdebstrap/hooks/maybe-merged-usr"


def argument(dockerfile: str, name: str) -> str:
    """The default of a Dockerfile's argument."""
    found = re.search(rf"^ARG {name}=(\S+)$", (ROOT / "deploy" / dockerfile).read_text(), re.MULTILINE)
    if found is None:
        raise SystemExit(f"deploy/{dockerfile} has no argument {name}")
    return found[1]


def make_base(image: str) -> None:
    """Have mmdebstrap make the base image, under the name of the one that it stands for."""
    excluded = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in _LEFT_OUT]
    with tempfile.TemporaryDirectory(prefix="dermbatch-base-") as folder:
        tar = Path(folder, "base.tar")
        options = ("--quiet", "--variant=minbase", f"--include={_PACKAGES}", _MERGED, *excluded)
        run("mmdebstrap", *options, _SUITE, tar)
        podman("import", "--quiet", tar, image)


def build(
    tag: str,
    context: Path,
    dockerfile: str,
    *,
    target: str | None = None,
    arguments: Mapping[str, str] | None = None,
    cached: bool = True,
) -> None:
    """Build one image, with nothing pulled; the same input gives the same bytes.

    Args:
        tag: Its name.
        context: Folder of what is copied.
        dockerfile: Relative to it.
        target: Stage; none: the last.
        arguments: Build arguments.
        cached: Whether layers of earlier builds are taken.
    """
    words = ["--pull=never", "--timestamp=0", f"--tag={tag}", f"--file={context / dockerfile}"]
    words += [f"--target={target}"] if target else []
    words += [f"--build-arg={key}={value}" for key, value in (arguments or {}).items()]
    words += [] if cached else ["--no-cache"]
    podman("build", *words, *_secrets(), context)


def _secrets() -> list[str]:
    sources = {"pip": os.environ.get("PIP_CONFIG_FILE"), "ca": os.environ.get("SSL_CERT_FILE")}
    return [f"--secret=id={name},src={path}" for name, path in sources.items() if path and Path(path).is_file()]


def make_standins(base: str, triton: str) -> None:
    """Build what stands in for foreign images, under their names."""
    own = Path(__file__).with_name("standins")
    stack = ROOT / "orchestrator" / "stack" / "servers"
    compose = (ROOT / "deploy" / "compose.yaml").read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory(prefix="dermbatch-standins-") as folder:
        context = Path(folder, "context")
        shutil.copytree(own, context)
        shutil.copytree(stack / "backends", context / "backends", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy2(stack / "s3door.py", context)
        shutil.copy2(ROOT / "constraints.txt", context)
        for target, name in STANDINS.items():
            (image,) = re.findall(rf"image: ({re.escape(name)}:\S+)", compose)
            build(image, context, "Dockerfile", target=target, arguments={"PYTHON_IMAGE": base})
        build(triton, context, "Dockerfile", target="triton", arguments={"PYTHON_IMAGE": base})


def make_ours(
    context: Path = ROOT, *, names: tuple[str, ...] = tuple(OURS), cached: bool = True
) -> dict[str, str]:
    """Build the images of ``deploy``.

    Returns:
        Name to id: equal ids are equal images.
    """
    for name in names:
        if name == "triton":
            build(OURS[name], context, "deploy/triton.Dockerfile", cached=cached)
        else:
            build(OURS[name], context, "deploy/Dockerfile", target=name, cached=cached)
    return {name: str(inspect("image", OURS[name])["Id"]) for name in names}


def stale(image: str) -> int:
    """How many files of bytecode go by the time of their source, which no builder keeps (PEP 552: flags of 0)."""
    code = (
        "import pathlib; print(sum(path.read_bytes()[4:8] == bytes(4) "
        "for path in pathlib.Path('/opt/dermbatch/lib').rglob('*.pyc')))"
    )
    return int(podman("run", "--rm", "--network=none", image, "python", "-c", code))


def megabytes(image: str) -> int:
    """Size of an image with all its layers, as ``podman images`` says it."""
    size: int = inspect("image", image)["Size"]
    return round(size / 1e6)


def whole() -> bool:
    """Whether nothing is missing in our images; says what is."""
    good = True
    with tempfile.TemporaryDirectory(prefix="dermbatch-formats-") as folder:
        Path(folder).chmod(0o755)  # the containers' user is nobody here
        write_formats(Path(folder))
        for name, packages in PACKAGES.items():
            wrong, tried = lacking(OURS[name], packages, Path(folder))
            print("\n".join([f"{name}: {tried}", *wrong]), flush=True)
            good = good and not wrong
    return good


def main(arguments: list[str]) -> int:
    """Build all, print figures, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--twice", action="store_true", help="build ours again without a cache: ids must be the same"
    )
    options = parser.parse_args(arguments)
    started = time.monotonic()
    base = argument("Dockerfile", "PYTHON_IMAGE")
    if not podman("images", "--quiet", base):
        make_base(base)
    print(f"base: {megabytes(base)} MB, {time.monotonic() - started:.0f} s", flush=True)
    make_standins(base, argument("triton.Dockerfile", "TRITON_IMAGE"))
    print(f"stand-ins: {time.monotonic() - started:.0f} s", flush=True)
    first = make_ours()
    seconds = time.monotonic() - started
    same = not options.twice or make_ours(cached=False) == first
    if options.twice:
        print("built twice: the same images" if same else "built twice: OTHER images")
    old = sum(stale(OURS[name]) for name in ("worker", "orchestrator"))
    if old:
        print(f"{old} files of bytecode would be compiled again at every start")
    complete = whole()
    sizes = " ".join(f"{name}={megabytes(OURS[name])}" for name in OURS)
    print(f"images={len(OURS)} seconds={seconds:.0f} base={megabytes(base)} {sizes}")
    return 0 if same and not old and complete else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
