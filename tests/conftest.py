"""What holds for all tests: their order, how many threads they take, and no time limits on single examples."""

import gc
import os
from pathlib import Path

import pytest
import structlog
from hypothesis import settings

# Modules run beside each other: what each computes needs one thread, and OpenMP's idle ones spin. Set before NumPy
# and PyTorch are imported, and inherited by the programs that tests start.
for _library in ("OMP", "OPENBLAS", "MKL"):
    os.environ.setdefault(f"{_library}_NUM_THREADS", "1")

# Tests start hundreds of processes: each would compile our packages again where Python is told to keep nothing.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# A loaded machine is no error: how long an example takes says nothing.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

# Where no log is set up, tracebacks with colours and source cost seconds of processor.
structlog.configure(
    processors=[
        *structlog.get_config()["processors"][:-1],
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),
    ]
)

LONGEST = (
    "acceptance/test_kill_loop.py",
    "acceptance/test_stack_commands.py",
    "acceptance/test_documents.py",
    "acceptance/test_processes.py",
    "acceptance/test_steering.py",
    "acceptance/test_run.py",
    "nets/test_lesionnets_command.py",
    "acceptance/test_desk_browser.py",
    "acceptance/test_privacy.py",
    "integration/test_review_two_readers.py",
    "integration/test_review_browser.py",
    "integration/test_review_browser_kept.py",
    "acceptance/test_install.py",
    "nets/test_networks.py",
    "integration/test_draining.py",
    "acceptance/test_real_images.py",
    "acceptance/test_benchmarks.py",
    "acceptance/test_watch_notifications.py",
    "integration/test_sign_on.py",
    "acceptance/test_run_dicom.py",
    "nets/test_enhance_and_purify_recipes.py",
    "integration/test_stack.py",
    "nets/test_recipes.py",
    "integration/test_pacs.py",
    "integration/test_mb_dcnn_models.py",
    "acceptance/test_monitoring.py",
    "integration/test_refusals.py",
    "integration/test_planner.py",
    "integration/test_worker_shutdown.py",
)
"""Modules that take longest, the longest first: the others fill the gaps after them, and no processor idles at the
end. Other modules keep pytest's order after these, those of unit tests last."""


def _place(item: pytest.Item) -> tuple[int, bool]:
    path = Path(item.path).relative_to(Path(__file__).parent).as_posix()
    return LONGEST.index(path) if path in LONGEST else len(LONGEST), path.startswith("unit/")


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name bytes by their argument: a compressed file may differ from process to process, and names may not."""
    return argname if isinstance(val, bytes) else None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the modules that take longest first; within a module nothing moves."""
    items.sort(key=_place)


def pytest_collection_finish() -> None:
    """Have the garbage collector pass over what modules brought, and seldom look at the rest: it costs seconds."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)
