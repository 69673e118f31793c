"""The guard: a small program around each part of the stack, so that nothing of the part outlives it.

Run as a program of its own (it imports the standard library only)::

    python -m orchestrator.stack.guard HOST GRACE LEFTOVERS PROGRAM [ARGUMENT ...]

``HOST`` is the process id that must be its parent, ``GRACE`` the seconds from SIGTERM to SIGKILL, ``LEFTOVERS`` a
glob pattern of files to remove at the end (empty: none). The guard makes itself the reaper of all its descendants
(``PR_SET_CHILD_SUBREAPER``, prctl(2)): a grandchild whose parent died becomes its child, also one that left the
session. It ends the program on SIGTERM, or when its host is gone for whatever reason, and then kills every
descendant. Should the guard itself be killed, the kernel kills the program (``PR_SET_PDEATHSIG``). That signal
goes with the *thread* that started the child; the guard has only one, so it holds wherever the host starts parts.

The exit status is the program's own (128 + n where signal n ended it; 127 where it could not be started).
"""

from __future__ import annotations

import ctypes
import glob
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_LOOK = 0.5  # seconds between two looks at the host
_ORPHAN_GRACE = 3.0  # once the host is gone, nobody waits for an orderly end
_STOP = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def main(arguments: list[str]) -> int:
    """Run the program to its end and return its exit status."""
    host, grace, leftovers, command = int(arguments[0]), float(arguments[1]), arguments[2], arguments[3:]
    signal.pthread_sigmask(signal.SIG_BLOCK, {*_STOP, signal.SIGCHLD})
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    program = _start(command)
    try:
        status = _watch(program, host, grace)
    finally:
        _kill_descendants()
        for path in glob.glob(leftovers) if leftovers else ():  # noqa: PTH207 - an absolute pattern
            with suppress(OSError):
                Path(path).unlink()
    return os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}) failed")


def _start(command: list[str]) -> int:
    guard = os.getpid()
    program = os.fork()
    if program:
        return program
    try:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {*_STOP, signal.SIGCHLD})
        if os.getppid() != guard:
            os._exit(127)
        os.execvp(command[0], command)  # noqa: S606 - no shell is what we want
    except OSError as error:
        os.write(2, f"cannot start {command[0]}: {error.strerror}\n".encode())
    finally:
        os._exit(127)


def _watch(program: int, host: int, grace: float) -> int:
    """Wait for the program's end and return its wait status."""
    deadline: float | None = None
    while True:
        pause = _LOOK if deadline is None else min(_LOOK, max(deadline - time.monotonic(), 0.0))
        got = signal.sigtimedwait({*_STOP, signal.SIGCHLD}, pause)
        status = _reap(program)
        if status is not None:
            return status
        orphaned = os.getppid() != host
        if deadline is None and (orphaned or (got is not None and got.si_signo in _STOP)):
            deadline = time.monotonic() + (min(grace, _ORPHAN_GRACE) if orphaned else grace)
            os.kill(program, signal.SIGTERM)
        elif deadline is not None and orphaned:
            deadline = min(deadline, time.monotonic() + _ORPHAN_GRACE)
        if deadline is not None and time.monotonic() >= deadline:
            os.kill(program, signal.SIGKILL)
            return os.waitpid(program, 0)[1]


def _reap(program: int) -> int | None:
    """Collect every child that has ended; return the program's status where it is among them."""
    found = None
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0] != 0:
            if ended[0] == program:
                found = ended[1]
    return found


def _kill_descendants() -> None:
    """Kill children until there are none: what a killed child had started becomes a child in its turn."""
    with suppress(ChildProcessError):
        while True:
            for child in _children():
                with suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            os.waitpid(-1, 0)


def _children() -> list[int]:
    me = str(os.getpid())
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                # The name in parentheses may hold anything; the parent is the second field behind it.
                if (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[1] == me:
                    found.append(int(entry.name))
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
