"""Embeddings as codes, and the search among them, by FAISS: the one module that knows it.

It is loaded with the first index: a service or desk without one does not pay for it (12 to 13 MB).

Up to :data:`EXACT` cases each number of an embedding is kept in 16 bits and all are compared. Beyond that,
embeddings are turned to their first principal directions and kept in 8 bits each, in lists of which a search looks
into the nearest (Jégou et al., "Product Quantization for Nearest Neighbor Search", TPAMI 33, 2011, section V,
without its quantizer).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import faiss

Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.uint8]

EXACT = 20_000
"""Cases up to which all are compared."""

DIRECTIONS = 320
"""Dimensions that are kept: with fewer, neighbours are lost however thorough the search (docs/similar.md)."""

_A_LIST = 48  # of those that are fitted to: below 39, FAISS warns
_MOST_LISTS = 2048
_LOOKED_INTO = 32


class Coder:
    """Turns embeddings of unit length into codes, and finds the nearest of those that it was given.

    Args:
        dimension: Dimension of the embeddings.
        trained: What :func:`train` gave; none to keep them in 16 bits.
    """

    def __init__(self, dimension: int, trained: bytes | None = None) -> None:
        import faiss  # noqa: PLC0415 - see above

        if trained is None:
            self._index = faiss.IndexScalarQuantizer(
                dimension, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
            )
            self._codes = self._index
        else:
            self._index = faiss.deserialize_index(np.frombuffer(trained, np.uint8))
            self._codes = faiss.downcast_index(self._index.index)
        self._lists = trained is not None
        self.dimension = int(self._index.d)

    @property
    def cases(self) -> int:
        """How many it was given."""
        return int(self._codes.ntotal)

    def encode(self, embeddings: Floats) -> Codes:
        """Codes [N, bytes] of embeddings [N, dimension]."""
        return np.asarray(self._index.sa_encode(np.ascontiguousarray(embeddings, np.float32)), np.uint8)

    @property
    def code_bytes(self) -> int:
        """Of one code."""
        return int(self._index.sa_code_size())

    def add(self, codes: Codes) -> None:
        """Add cases; their numbers continue from those before."""
        numbers = np.arange(self.cases, self.cases + len(codes), dtype=np.int64) if self._lists else None
        self._codes.add_sa_codes(np.ascontiguousarray(codes), numbers)
        self._index.ntotal = self._codes.ntotal

    def nearest(
        self, embedding: Floats, count: int, allowed: npt.NDArray[np.bool_] | None = None
    ) -> list[tuple[int, float]]:
        """Numbers of the nearest cases, the nearest first, and how near they are: the cosine, or nearly so.

        Args:
            embedding: [dimension], of unit length.
            count: How many at most.
            allowed: [cases]: which may be found; all if none is given.
        """
        import faiss  # noqa: PLC0415 - see above

        bits = None if allowed is None else np.packbits(allowed, bitorder="little")
        chosen = None if bits is None else faiss.IDSelectorBitmap(bits)
        nears, numbers = self._index.search(
            np.ascontiguousarray(embedding[None], np.float32), count, params=self._how(chosen, allowed)
        )
        nears = 1 - nears / 2 if self._lists else nears  # of unit vectors, by their squared distance
        found = zip(numbers[0].tolist(), nears[0].tolist(), strict=True)
        return [(number, near) for number, near in found if number >= 0]

    def _how(
        self, chosen: faiss.IDSelectorBitmap | None, allowed: npt.NDArray[np.bool_] | None
    ) -> faiss.SearchParameters:
        import faiss  # noqa: PLC0415 - see above

        if not self._lists:
            return faiss.SearchParameters(sel=chosen)
        # If few are allowed, the nearest of them may lie in lists that are farther away.
        share = 1.0 if allowed is None else float(allowed.mean())
        probes = min(self._codes.nlist, int(_LOOKED_INTO * max(1.0, 0.5 / max(share, 1e-6))))
        lists = faiss.SearchParametersIVF(sel=chosen, nprobe=probes)
        return faiss.SearchParametersPreTransform(index_params=lists)


def train(embeddings: Floats) -> bytes:
    """Fit what turns embeddings like these [N, dimension], more than :data:`DIRECTIONS`, into codes."""
    import faiss  # noqa: PLC0415 - see above

    count, dimension = embeddings.shape
    lists = max(1, min(_MOST_LISTS, count // _A_LIST))
    how = f"PCA{min(DIRECTIONS, dimension)},IVF{lists},SQ8"
    # Distances: they do not change when the mean is taken away, as products would.
    index = faiss.index_factory(dimension, how, faiss.METRIC_L2)
    index.train(np.ascontiguousarray(embeddings, np.float32))
    return bytes(faiss.serialize_index(index).tobytes())
