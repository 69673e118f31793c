"""How near the index of similar cases comes to exact search, how long a search takes, and what memory it needs.

``python -m benchmarks.similar_index --embeddings FILE.npy --count 1000000``

Embeddings are made of real ones, ``e_i + 0.5 (e_j - e_k)``, of unit length, so that they spread as real ones do.
Questions are made likewise, and are not in the index. Exact search is a product of matrices. ``processor`` is what
a question takes of one core: on a machine that is busy with other things, time by the clock says little.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import faiss
import numpy as np
import numpy.typing as npt
import psutil

from orchestrator.similar.codes import Coder, train

Floats = npt.NDArray[np.float32]

BLOCK = 20_000
SPREAD = 0.5


def drawn(real: Floats, count: int, random: np.random.Generator) -> Floats:
    """Embeddings [count, D] of unit length that spread as real ones do."""
    first, second, third = random.integers(0, len(real), (3, count))
    vectors = real[first] + SPREAD * (real[second] - real[third])
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--embeddings", type=Path, required=True, help="[N, D] float32, real ones")
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--fitted-to", type=int, default=100_000)
    parser.add_argument("--nearest", type=int, default=10)
    asked = parser.parse_args()
    real = np.asarray(np.load(asked.embeddings), np.float32)
    random = np.random.default_rng(0)
    questions = drawn(real, asked.questions, random)
    began = time.perf_counter()
    trained = train(drawn(real, asked.fitted_to, random))
    print(f"real={len(real)} fitted_s={time.perf_counter() - began:.0f} fitted_to={asked.fitted_to}", flush=True)
    process = psutil.Process()
    coder = Coder(real.shape[1], trained)
    before, best = process.memory_info().rss, np.full((asked.questions, asked.nearest), -2.0, np.float32)
    numbers = np.zeros((asked.questions, asked.nearest), np.int64)
    began, codes_bytes = time.perf_counter(), 0
    for start in range(0, asked.count, BLOCK):
        block = drawn(real, min(BLOCK, asked.count - start), random)
        codes = coder.encode(block)
        coder.add(codes)
        codes_bytes += codes.nbytes
        near = np.concatenate((best, questions @ block.T), axis=1)
        mine = np.tile(np.arange(start, start + len(block)), (asked.questions, 1))
        which = np.concatenate((numbers, mine), axis=1)
        order = np.argpartition(-near, asked.nearest, axis=1)[:, : asked.nearest]
        best, numbers = np.take_along_axis(near, order, 1), np.take_along_axis(which, order, 1)
    grown = process.memory_info().rss - before
    print(
        f"made_s={time.perf_counter() - began:.0f} codes_mb={codes_bytes / 1e6:.0f} memory_mb={grown / 1e6:.0f}",
        flush=True,
    )
    faiss.omp_set_num_threads(1)
    allowed = np.arange(asked.count) % 10 != 0
    for name, mask in (("all", None), ("refined", allowed)):
        took, worked, hits = [], [], []
        for question, exact in zip(questions, numbers, strict=True):
            began, busy = time.perf_counter(), time.process_time()
            found = coder.nearest(question, asked.nearest, mask)
            took.append(time.perf_counter() - began)
            worked.append(time.process_time() - busy)
            hits.append(len({number for number, _ in found} & set(exact.tolist())) / asked.nearest)
        p50, p95 = (1000 * float(np.quantile(took, share)) for share in (0.5, 0.95))
        busy95 = 1000 * float(np.quantile(worked, 0.95))
        recall = f" recall_at_{asked.nearest}={np.mean(hits):.3f}" if mask is None else ""
        print(f"{name}: p50_ms={p50:.1f} p95_ms={p95:.1f} processor_p95_ms={busy95:.1f}{recall}", flush=True)


if __name__ == "__main__":
    main()
