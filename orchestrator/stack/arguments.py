"""Secrets among the arguments of a program that accepts them no other way: erased once it has read them."""

from __future__ import annotations

from pathlib import Path

_ARG_START, _ARG_END = 47, 48  # of the fields of /proc/<pid>/stat, from 0: proc(5)


def cover(pid: int, secret: str) -> bool:
    """Overwrite a secret in the arguments of one of our processes, which every user of the machine can list.

    Args:
        pid: The process; a descendant of this one, or one that it may trace otherwise.
        secret: What must not be seen there.

    Returns:
        Whether it is gone.
    """
    try:
        head, _, rest = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")
        fields = ["", head, *rest.split()]
        start, end = int(fields[_ARG_START]), int(fields[_ARG_END])
        with Path(f"/proc/{pid}/mem").open("r+b", buffering=0) as memory:
            memory.seek(start)
            found = memory.read(end - start)
            memory.seek(start)
            memory.write(found.replace(secret.encode(), b"*" * len(secret.encode())))
        return secret.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError):
        return False
