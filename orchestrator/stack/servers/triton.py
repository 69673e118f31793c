"""The stack's Triton Inference Server: the real one, out of the ``nvidia-pytriton`` wheel.

The wheel brings the server and its Python backend only. ONNX models are served by a python-based backend of our
own with the name of Triton's C++ one (``backends/onnxruntime/model.py``), so that a model repository serves
unchanged both here and on a machine with NVIDIA's server image.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import re
import secrets
import shutil
import sys
import sysconfig
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from dermbatch.errors import StackError
from dermbatch.settings import TritonSettings
from orchestrator.stack.arguments import cover
from orchestrator.stack.process import Part, http_ok

_BACKENDS = "backends"
_MODELS = "models"
_OWN_BACKEND = Path(__file__).with_name("backends") / "onnxruntime"
_OWN_LIBPYTHON = (3, 13)  # the only stub of the wheel that brings its own
_GRACE = 0.0  # it keeps nothing, and whoever waits for an answer ends before it; on its own it takes 3 s
_TELLING = re.compile(r"UNAVAILABLE|^E\d{4} |^error: |Traceback|Error: |already in use")
_FIELD = re.compile(r"^(\w+)", re.MULTILINE)
_TENSORS = {"input", "output"}
_PROTOCOLS = (
    "metadata",
    "inference",
    "shared-memory",
    "model-config",
    "model-repository",
    "statistics",
    "trace",
    "logging",
)
"""Of HTTP and gRPC, all but health: the first probe has no key."""

_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where POSIX shared memory lies on Linux


@dataclass(frozen=True)
class TritonPorts:
    """Ports on 127.0.0.1.

    Args:
        grpc: Where clients infer.
        http: Health and statistics.
        metrics: For Prometheus.
    """

    grpc: int
    http: int
    metrics: int


def triton_part(
    folder: Path,
    log: Path,
    ports: TritonPorts,
    env: Mapping[str, str],
    *,
    triton: TritonSettings,
    repository: Path,
) -> tuple[Part, TritonSettings]:
    """Prepare Triton on 127.0.0.1, serving every model of a repository to holders of its key, which is always new.

    Args:
        folder: For the private backend folder; made where missing.
        log: Its log file.
        ports: Three free ports.
        env: Environment to run in.
        triton: Settings of which all but address and names are kept.
        repository: The Triton model repository; only read.

    Returns:
        The part, not started, and the settings that clients need.

    Raises:
        StackError: If the wheel, ONNX Runtime, or this Python's shared library is missing, or the repository is
            no folder.
    """
    if not repository.is_dir():
        raise StackError(f"the model repository {repository} is not a folder")
    server = triton_folder()
    _make_backends(folder / _BACKENDS, server)
    (folder / _MODELS).unlink(missing_ok=True)
    (folder / _MODELS).symlink_to(repository.resolve())
    # Each server and its clients name their shared memory separately, so that leftovers of killed ones can
    # be removed. Living clients are not affected: their memory has no names any more.
    prefix = f"dermbatch-{ports.grpc}-{secrets.token_hex(4)}-"
    key = secrets.token_hex(32)
    argv = [
        str(server / "bin" / "tritonserver"),
        # Relative, because Triton starts its stubs through a shell without quoting blanks in these two paths.
        f"--model-repository={_MODELS}",
        f"--backend-directory={_BACKENDS}",
        f"--backend-config=python,shm-region-prefix-name={prefix}",
        "--http-address=127.0.0.1",
        f"--http-port={ports.http}",
        "--grpc-address=127.0.0.1",
        f"--grpc-port={ports.grpc}",
        "--metrics-address=127.0.0.1",
        f"--metrics-port={ports.metrics}",
        f"--model-load-thread-count={max(4, os.cpu_count() or 1)}",
        "--exit-timeout-secs=1",
        # Our backend computes on the processor, whatever else the machine has.
        "--allow-gpu-metrics=false",
        "--pinned-memory-pool-byte-size=0",
        # Otherwise each model costs another process at the start, which is asked for what the configuration says.
        *(["--disable-auto-complete-config"] if _complete(repository) else []),
        # Other users of the machine reach the loopback address too, and this version has known faults.
        f"--grpc-restricted-protocol={','.join([*_PROTOCOLS, 'health'])}:dermbatch={key}",
        f"--http-restricted-api={','.join(_PROTOCOLS)}:dermbatch={key}",
    ]

    def probe() -> bool:
        if part.last_lines():  # once it has read its arguments, which every user can list
            for pid in (part.pid, part.program_pid):
                cover(pid or 0, key)
        return http_ok(ports.http, "/v2/health/ready")

    part = Part(
        name="triton",
        argv=argv,
        env={**env, **_environment(env, server)},
        log=log,
        probe=probe,
        ready_timeout=180,
        grace=_GRACE,
        cwd=folder,
        telling=_TELLING,
        leftovers=str(_SHARED_MEMORY / f"{prefix}*"),
    )
    own = {"url": f"127.0.0.1:{ports.grpc}", "shared_memory_prefix": prefix, "key": SecretStr(key)}
    return part, triton.model_copy(update=own)


def triton_folder() -> Path:
    """The ``tritonserver`` folder of the wheel; raises :class:`StackError` where it is not installed."""
    spec = importlib.util.find_spec("pytriton")  # not imported: it would start by configuring logging
    if spec is None or spec.origin is None or importlib.util.find_spec("onnxruntime") is None:
        raise StackError(
            "Triton Inference Server or ONNX Runtime is not installed: pip install 'dermbatch[stack]' "
            "(the wheels are there for Linux on x86-64)"
        )
    return Path(spec.origin).parent / "tritonserver"


def _complete(repository: Path) -> bool:
    """Whether each model's configuration names its tensors itself."""
    configs = [path / "config.pbtxt" for path in repository.iterdir() if path.is_dir()]
    return all(config.is_file() and set(_FIELD.findall(config.read_text())) >= _TENSORS for config in configs)


def _make_backends(folder: Path, server: Path) -> None:
    """Build the folder with the Python backend, the stub for this Python beside it, and our own backend."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = server / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.is_file():
        raise StackError(f"this Triton has no Python backend for Python {version}: use Python 3.11, 3.12 or 3.13")
    python = server / "backends" / "python"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "python").mkdir(parents=True, exist_ok=True, mode=0o700)
    # Copies: Triton refuses a library that a symbolic link puts outside of its folder.
    for source in (python / "libtriton_python.so", python / "triton_python_backend_utils.py", stub):
        shutil.copy2(source, folder / "python" / source.name)
    (folder / "onnxruntime").symlink_to(_OWN_BACKEND)


def _environment(env: Mapping[str, str], server: Path) -> dict[str, str]:
    libraries = [
        str(server.parents[1] / "nvidia_pytriton.libs"),
        *_libpython_folder(),
        env.get("LD_LIBRARY_PATH", ""),
    ]
    # The stub takes its packages from the `python3` that it finds first.
    programs = [str(Path(sys.executable).parent), env.get("PATH", os.defpath)]
    return {
        "LD_LIBRARY_PATH": os.pathsep.join(filter(None, libraries)),
        "PATH": os.pathsep.join(programs),
        # numpy in the stubs only copies; its idle threads cost start-up time and memory.
        "OPENBLAS_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }


def _libpython_folder() -> list[str]:
    """The folder of this Python's shared library; none if the loader finds it or it is not needed."""
    if sys.version_info[:2] == _OWN_LIBPYTHON:
        return []
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    name = f"libpython{version}.so.1.0"
    libdir = Path(str(sysconfig.get_config_var("LIBDIR")))
    multiarch = str(sysconfig.get_config_var("MULTIARCH") or "")
    for place in (libdir, libdir / multiarch, Path(sys.base_prefix) / "lib"):
        if (place / name).is_file():
            return [str(place)]
    with suppress(OSError):
        ctypes.CDLL(name)
        return []
    raise StackError(
        f"Triton's Python backend needs {name}, and this Python ({sys.executable}) was built without a shared "
        f"library: install the package that brings it (Debian, Ubuntu: libpython{version}; "
        f"Fedora: python3-libs), or build Python with --enable-shared (pyenv: "
        f"PYTHON_CONFIGURE_OPTS=--enable-shared pyenv install {version})"
    )
