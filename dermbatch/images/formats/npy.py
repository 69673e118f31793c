"""Arrays as NumPy's files, .npy: embeddings and patterns."""

from __future__ import annotations

import threading
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

# NumPy has Python parse the header, and Python 3.11 now and then fails to parse in two threads at once ("AST
# constructor recursion depth mismatch", https://github.com/python/cpython/issues/106905).
_parsing = threading.Lock()


def read_array(body: bytes) -> NDArray[Any]:
    """The array of a .npy file; arrays of Python objects are refused.

    Raises:
        ValueError: If it is damaged or no such file.
    """
    try:
        with _parsing:
            array = np.load(BytesIO(body), allow_pickle=False)
    except (EOFError, OSError) as error:
        raise ValueError("not a readable .npy file") from error
    if not isinstance(array, np.ndarray):
        raise ValueError("an archive of arrays, not a .npy file")  # noqa: TRY004 - as for all else that is none
    return array
