"""Sidecars: what systems put beside people's files and nobody means to send; recognised by path everywhere."""

from __future__ import annotations

_FOLDERS = frozenset(
    {
        "__macosx",  # macOS, in archives
        "@eadir",  # Synology: thumbnails that end in .jpg
        "@tmp",
        "#recycle",
        "#snapshot",
        "$recycle.bin",
        "recycler",
        "@recycle",  # QNAP
        "system volume information",
        "lost+found",
    }
)
_FILES = frozenset({"thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "picasa.ini", "icon\r"})
_STAND_IN = "_$folder$"
"""The ending that Hadoop's S3 clients give to an empty object that stands for a folder."""


def is_sidecar(path: str) -> bool:
    """Whether a path is that of a hidden file or folder, of a system file, or of an object standing for a folder.

    Args:
        path: With slashes; of a key it ends with one where it stands for a folder.
    """
    parts = [part for part in path.split("/") if part not in {"", "."}]
    if not parts or path.endswith(("/", _STAND_IN)):
        return True
    return any(map(is_sidecar_folder, parts)) or parts[-1].lower() in _FILES


def is_sidecar_folder(name: str) -> bool:
    """Whether nobody means what is in a folder of this name: a hidden one (``..`` is not), or a system's own."""
    return (name.startswith(".") and name != "..") or name.lower() in _FOLDERS
