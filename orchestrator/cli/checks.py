"""What an installation needs, one check at a time: what is there, what is missing, and how to mend it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import resource
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import psutil

from dermbatch.errors import DermbatchError, StackError
from dermbatch.ledger import Ledger
from dermbatch.models import repository
from dermbatch.settings import Engine, Settings, StackSettings
from dermbatch.store import ObjectStore
from orchestrator.planning.models import served
from orchestrator.stack import host
from orchestrator.stack.servers.redis import valkey_binary
from orchestrator.stack.servers.triton import triton_folder

_MEMORY = 2 << 30
"""Bytes of memory that a stack needs with two workers, each on a picture of 24 megapixels."""

_FILES = 1024
_ANSWERED_IN = 5.0

State = Literal["ok", "optional", "missing"]


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes:
        what: What was looked at.
        state: ``missing`` if something cannot be done without it, ``optional`` if one can do without.
        detail: What was found, or was not.
        mend: What to do about it; empty if nothing needs to be done.
    """

    what: str
    state: State
    detail: str
    mend: str = ""


def installed(home: Path) -> Iterator[Finding]:
    """What this machine has of what ``run`` and ``up`` need."""
    yield _python()
    yield _tried("Valkey (Redis)", lambda: str(valkey_binary()))
    yield _package("S3 server", "ministack")
    yield _tried("Triton Inference Server", lambda: str(triton_folder()))
    yield _package("ONNX Runtime", "onnxruntime")
    yield _codecs()
    yield _models()
    yield _processors()
    yield _memory()
    yield _disk(home)
    yield _open_files()


def reachable(settings: Settings, home: Path) -> Iterator[Finding]:
    """Which servers answer: those of the settings or of the stack in ``home``, and PACS."""
    where = "as set"
    if not {"redis", "store"} <= settings.model_fields_set:
        try:
            settings, where = host.attach(home), f"stack in {home}"
        except StackError as error:
            yield Finding("Running stack", "optional", str(error))
            yield from _destinations(settings)
            return
    yield _answers(
        f"Redis, {where}", lambda: f"{Ledger(settings.redis, settings.ledger).slots.live()} worker slots"
    )
    yield _answers(f"Object store, {where}", lambda: _buckets(settings))
    if settings.inference.engine is Engine.TRITON:
        yield _answers(
            f"Triton, {where}", lambda: ", ".join(served(settings.triton, timeout=_ANSWERED_IN)) or "no model"
        )
    yield from _destinations(settings)


def _python() -> Finding:
    detail = f"Python {platform.python_version()}, {platform.system()} on {platform.machine()}"
    fits = sys.version_info[:2] in {(3, 11), (3, 12)} and platform.system() == "Linux"
    return Finding(
        "Python", "ok" if fits else "missing", detail, "" if fits else "use Python 3.11 or 3.12 on Linux"
    )


def _tried(what: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(what, "ok", look())
    except StackError as error:
        detail, _, mend = str(error).partition(": ")
        return Finding(what, "missing", detail, mend)


def _package(what: str, name: str) -> Finding:
    if importlib.util.find_spec(name) is None:
        return Finding(what, "missing", f"{name} is not installed", "pip install 'dermbatch[stack]'")
    return Finding(what, "ok", f"{name} {importlib.metadata.version(name)}")


def _codecs() -> Finding:
    what = "JPEG Lossless and JPEG-LS in DICOM"
    if importlib.util.find_spec("libjpeg") is None:
        return Finding(
            what, "optional", "pylibjpeg-libjpeg is not installed", "pip install 'dermbatch[codecs]' (GPL)"
        )
    return Finding(what, "ok", f"pylibjpeg-libjpeg {importlib.metadata.version('pylibjpeg-libjpeg')}")


def _models() -> Finding:
    try:
        folder = repository.default_model_repository()
        names = list(_whole_models(folder))
    except (StackError, OSError) as error:
        return Finding("Models", "missing", str(error), "install Dermbatch again")
    return Finding("Models", "ok", f"{', '.join(names)} in {folder}")


def _whole_models(folder: Path) -> Iterator[str]:
    """Names of the models whose files match their configurations; raises if one does not."""
    for name, versions in repository.served_models(folder).items():
        config = (folder / name / "config.pbtxt").read_text()
        for version in versions:
            file = folder / name / version / "model.onnx"
            if file.is_file() and repository.file_digest(file) not in config:
                raise StackError(
                    f"{file} is not the file that its configuration names by digest; install the models again"
                )
        yield name


def _processors() -> Finding:
    gpu = shutil.which("nvidia-smi")
    detail = f"{len(os.sched_getaffinity(0))} to use; " + (
        "an NVIDIA driver is there" if gpu else "no NVIDIA driver"
    )
    return Finding("Processors", "ok", detail)


def _memory() -> Finding:
    free = psutil.virtual_memory().available
    state: State = "ok" if free >= _MEMORY else "missing"
    mend = "" if state == "ok" else f"make {_MEMORY / 2**30:.0f} GiB free, or use --workers 1"
    return Finding("Memory", state, f"{free / 2**30:.1f} GiB free", mend)


def _disk(home: Path) -> Finding:
    there = next(folder for folder in (home.resolve(), *home.resolve().parents) if folder.exists())
    free, least = shutil.disk_usage(there).free, StackSettings().least_free
    writable = os.access(there, os.W_OK)
    detail = f"{free / 2**30:.1f} GiB free at {there}" + ("" if writable else ", which is not writable")
    fits = writable and free > 4 * least
    return Finding("Disk", "ok" if fits else "missing", detail, "" if fits else "name another folder with --home")


def _open_files() -> Finding:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    fits = soft >= _FILES or soft == resource.RLIM_INFINITY
    return Finding(
        "Open files", "ok" if fits else "missing", f"{soft} at a time", "" if fits else f"ulimit -n {_FILES}"
    )


def _answers(what: str, ask: Callable[[], str]) -> Finding:
    try:
        return Finding(what, "ok", ask())
    except DermbatchError as error:
        return Finding(
            what, "missing", str(error), "check its address and credentials in DERMBATCH_* (docs/settings.md)"
        )


def _buckets(settings: Settings) -> str:
    store = ObjectStore(settings.store)
    for bucket in (store.bucket, store.incoming_bucket):
        next(iter(store.list(bucket, "dermbatch-doctor/")), None)
    return f"buckets {store.bucket} and {store.incoming_bucket} can be listed"


def _destinations(settings: Settings) -> Iterator[Finding]:
    for name, pacs in settings.dicomweb.items():
        parts = urlsplit(pacs.url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            socket.create_connection((parts.hostname or "", port), _ANSWERED_IN).close()
        except OSError as error:
            detail = f"{parts.hostname}:{port} does not answer: {error.strerror or error}"
            yield Finding(f"PACS {name}", "missing", detail, "check its address, and any firewall in between")
        else:
            yield Finding(f"PACS {name}", "ok", f"{parts.hostname}:{port} takes connections; nothing was sent")
