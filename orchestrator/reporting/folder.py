"""A folder for results: nothing is written outside it, whatever keys say and whatever lies in it."""

from __future__ import annotations

import errno
import os
import secrets
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dermbatch.errors import DermbatchError, PermanentError

_LONGEST_NAME = 255
_WRITABLE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class DiskFull(DermbatchError):
    """The results do not fit into the folder; the store still has them."""

    reason = "disk_full"


class OutOfFolder(PermanentError):
    """A key leads out of the folder, or a symbolic link is in its way."""

    reason = "unsafe_key"


class Folder:
    """Files by keys, below one folder.

    Every folder on the way is opened separately and never through a symbolic link, so a planted link cannot lead
    elsewhere. Modes are 0666 and 0777, reduced by the umask.

    Args:
        path: Created if missing; may itself be reached through links, since the user has named it.
    """

    def __init__(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._last = _Last()

    def write(self, key: str, body: bytes) -> None:
        """Write a file, whole or not at all, replacing any other.

        Raises:
            OutOfFolder: If the key leads out of the folder.
            DiskFull: If it cannot be written.
        """
        try:
            with self._parent(key, make=True) as (folder, name):
                draft = f".{secrets.token_hex(8)}"
                try:
                    with os.fdopen(os.open(draft, _WRITABLE, 0o666, dir_fd=folder), "wb") as file:
                        file.write(body)
                    os.replace(draft, name, src_dir_fd=folder, dst_dir_fd=folder)
                finally:
                    _gone(draft, folder)
        except OSError as error:
            self._refuse_link(key, error)
            text = f"{self.path / key} could not be written: {error.strerror}; the store still has it, so fetch "
            "again when there is space"
            raise DiskFull(text) from error

    def link(self, key: str, file: Path) -> None:
        """Link a file of this machine into the folder, replacing any other.

        Raises:
            OutOfFolder: If the key leads out of the folder.
            OSError: If it cannot be linked: another file system, or one without links.
        """
        with self._parent(key, make=True) as (folder, name):
            draft = f".{secrets.token_hex(8)}"
            os.link(file, draft, dst_dir_fd=folder, follow_symlinks=False)
            try:
                os.replace(draft, name, src_dir_fd=folder, dst_dir_fd=folder)
            finally:  # if both were already names of one file, the system leaves both
                _gone(draft, folder)

    def read(self, key: str) -> bytes | None:
        """A file; none if there is none that can be read.

        Raises:
            OutOfFolder: If the key leads out of the folder.
        """
        try:
            with self._parent(key, make=False) as (folder, name):
                opened = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=folder)
                with os.fdopen(opened, "rb") as file:
                    return file.read()
        except OSError as error:
            self._refuse_link(key, error)
            return None

    @contextmanager
    def _parent(self, key: str, *, make: bool) -> Iterator[tuple[int, str]]:
        """The open folder of a key's file, and the name of the file, which is not a link."""
        *parts, name = _parts(key)
        opened = self._last.opened
        if opened is None or opened.parts != parts or not opened.is_there():
            opened = self._last.opened = _Opened(self._way(parts, make=make), parts)
        folder = opened.folder
        with suppress(FileNotFoundError):
            if stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                raise _link(key)
        yield folder, name

    def _way(self, parts: list[str], *, make: bool) -> int:
        """The folder with this path, opened."""
        folder = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        for part in parts:
            try:
                below = _made(part, folder) if make else os.open(part, _FOLDER, dir_fd=folder)
            finally:
                os.close(folder)
            folder = below
        return folder

    def _refuse_link(self, key: str, error: OSError) -> None:
        """Raise `OutOfFolder` if a link on the way caused an error; a missing folder is no link."""
        if error.errno == errno.ENOENT:
            return
        on_the_way = list((self.path / key).relative_to(self.path).parents)[:-1]
        if any((self.path / part).is_symlink() for part in on_the_way):
            raise _link(key) from error


class _Opened:
    """A folder that stays open for as long as this object is held."""

    def __init__(self, folder: int, parts: list[str]) -> None:
        self.folder, self.parts = folder, parts

    def __del__(self) -> None:
        os.close(self.folder)

    def is_there(self) -> bool:
        """Whether it still exists."""
        return os.fstat(self.folder).st_nlink > 0


class _Last(threading.local):
    """The folder that a thread used last: files of one folder come one after the other."""

    opened: _Opened | None = None


def _made(part: str, folder: int) -> int:
    """A folder below an open one, opened, and created if missing, which is rare."""
    with suppress(FileNotFoundError):
        return os.open(part, _FOLDER, dir_fd=folder)
    with suppress(FileExistsError):
        os.mkdir(part, dir_fd=folder)
    return os.open(part, _FOLDER, dir_fd=folder)


def _gone(draft: str, folder: int) -> None:
    with suppress(OSError):
        os.unlink(draft, dir_fd=folder)


def _parts(key: str) -> list[str]:
    """The names on the way to a key's file; raises `OutOfFolder` if one leads elsewhere."""
    parts = key.split("/")
    if any(part in {"", ".", ".."} or "\0" in part or len(os.fsencode(part)) > _LONGEST_NAME for part in parts):
        raise OutOfFolder(
            f"{key!r} is not the key of a result: it leads out of the folder, or cannot be a file name"
        )
    return parts


def _link(key: str) -> OutOfFolder:
    return OutOfFolder(
        f"{key}: a symbolic link is in its way in the folder; remove it, or fetch into a new folder"
    )
