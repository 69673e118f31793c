"""Where reading processes come from: a process with all decoders loaded that does nothing but fork.

It never touches an untrusted file and has a single thread, so its forks are sound. A child costs milliseconds and
shares the decoders' memory with its siblings.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import os
import resource
import selectors
import signal
import socket
import struct
import subprocess
import sys
import weakref
from collections.abc import Sequence
from contextlib import suppress

from dermbatch.bounded.child import serve

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_STATUS = struct.Struct("<i")
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}


class Nursery:
    """The owners' side: starts it, and asks it for children. Forks of an owner may ask as well.

    Args:
        modules: What children need, loaded once.
    """

    def __init__(self, modules: Sequence[str]) -> None:
        door, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # Without the settings: whoever gets hold of a decoder finds no keys in its memory.
        env = {name: value for name, value in os.environ.items() if not name.startswith(("DERMBATCH_", "AWS_"))}
        env["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))  # and not the folder that it is started in
        command = [sys.executable, "-P", "-m", "dermbatch.bounded", str(theirs.fileno()), *modules]
        with theirs:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, env=env | _ONE_THREAD, pass_fds=[theirs.fileno()]
            )
        self._door = door
        self._end = weakref.finalize(self, _end, door, process, os.getpid())

    def child(self) -> ReaderProcess:
        """A new reading process.

        Raises:
            OSError: If the nursery is gone.
        """
        owner, work = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        leash, held = socket.socketpair()
        with work, held:
            try:
                socket.send_fds(self._door, [b"child"], [work.fileno(), held.fileno()])
            except OSError:
                owner.close()
                leash.close()
                raise
        return ReaderProcess(owner, leash)

    def close(self) -> None:
        """End it, and all its children."""
        self._end()


def _end(door: socket.socket, process: subprocess.Popen[bytes], owner: int) -> None:
    door.close()
    if os.getpid() == owner:
        process.kill()  # its children end with it
        process.wait()


class ReaderProcess:
    """A reading process as its owner has it.

    Args:
        work: Socket for questions and answers.
        leash: Once this is closed, the process is killed, whatever it is doing.
    """

    def __init__(self, work: socket.socket, leash: socket.socket) -> None:
        self.work, self._leash = work, leash

    @property
    def alive(self) -> bool:
        """Whether it waits for a question."""
        try:
            self.work.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False  # it is gone, or sends something that nobody asked for

    def status(self) -> int:
        """Its exit code, once it has ended; "killed from outside" if nobody knows."""
        code = b""
        with suppress(OSError):
            code = self._leash.recv(_STATUS.size)
        self.close()
        return int(_STATUS.unpack(code)[0]) if len(code) == _STATUS.size else -signal.SIGKILL

    def close(self) -> None:
        """End it."""
        self.work.close()
        self._leash.close()


def main(door: int, modules: Sequence[str]) -> None:
    """Load the modules, then fork for whoever asks, until all owners are gone.

    Args:
        door: Descriptor of the socket on which they ask.
        modules: What children need.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # owners end it, and may need it until they have ended
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # it would hold somebody's picture
    for name in modules:
        importlib.import_module(name)
    gc.freeze()
    _Forks(socket.socket(fileno=door)).go_on()


class _Forks:
    """The children, each with the leash that its owner holds the other end of."""

    def __init__(self, door: socket.socket) -> None:
        self._door, self._leashes = door, dict[socket.socket, int]()
        self._select = selectors.DefaultSelector()
        self._select.register(door, selectors.EVENT_READ)
        self._ended, wake = socket.socketpair()
        for end in (self._ended, wake):
            end.setblocking(False)
        self._wake = wake
        self._select.register(self._ended, selectors.EVENT_READ)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)

    def go_on(self) -> None:
        while True:
            for key, _ in self._select.select():
                if key.fileobj is self._door:
                    if not self._fork():
                        return  # children die with their parent
                elif key.fileobj is self._ended:
                    self._ended.recv(4096)
                    self._bury()
                elif key.fileobj in self._leashes:  # nobody ever writes to it: its owner has closed it
                    self._select.unregister(key.fileobj)
                    os.kill(self._leashes[key.fileobj], signal.SIGKILL)

    def _fork(self) -> bool:
        """Fork a child for whoever asked; returns whether anybody is left who could ask."""
        request, held, _, _ = socket.recv_fds(self._door, 16, 2)
        if not request:
            return False
        work, leash = held
        if (pid := os.fork()) == 0:
            self._become(work, leash)
        os.close(work)
        end = socket.socket(fileno=leash)
        self._leashes[end] = pid
        self._select.register(end, selectors.EVENT_READ)
        return True

    def _become(self, work: int, leash: int) -> None:
        """Be a child: with nothing but its own socket."""
        try:
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._select.close()
            for one in (self._door, self._ended, self._wake, *self._leashes):
                one.close()
            os.close(leash)
            serve(socket.socket(fileno=work))
            os._exit(0)
        finally:
            os._exit(1)

    def _bury(self) -> None:
        """Tell owners how their children have ended."""
        for leash, pid in list(self._leashes.items()):
            found, status = os.waitpid(pid, os.WNOHANG)
            if not found:
                continue
            del self._leashes[leash]
            with suppress(KeyError):
                self._select.unregister(leash)
            with suppress(OSError), leash:
                leash.send(_STATUS.pack(os.waitstatus_to_exitcode(status)))
