"""The batches of an epoch: which samples each has, and preparing the next while the network works."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch

Item = TypeVar("Item")


def shuffled(count: int, batch_size: int) -> Iterable[npt.NDArray[np.int64]]:
    """Indices of an epoch's batches, in random order; the last incomplete batch is left out.

    If there are fewer samples than in a batch, all of them are the only batch.
    """
    order = torch.randperm(count).numpy()
    whole = max(count // batch_size, 1)
    return (order[i * batch_size : (i + 1) * batch_size] for i in range(whole))


def epoch_random() -> np.random.Generator:
    """NumPy's generator for an epoch, seeded by torch's global one."""
    return np.random.default_rng(int(torch.randint(2**62, ())))


def prefetched(items: Iterable[Item], *, ahead: int = 3) -> Iterator[Item]:
    """Yield the items in order, while a thread prepares up to ``ahead`` of them.

    An error of the iterable is raised here, in place of its item. A consumer that stops early stops the thread.
    """
    waiting: queue.Queue[tuple[str, Item | BaseException | None]] = queue.Queue(maxsize=ahead)
    stopped = threading.Event()

    def put(kind: str, value: Item | BaseException | None) -> None:
        while not stopped.is_set():
            try:
                waiting.put((kind, value), timeout=0.1)
            except queue.Full:
                continue
            return

    def draw() -> None:
        try:
            for item in items:
                put("item", item)
                if stopped.is_set():
                    return
            put("end", None)
        except BaseException as error:
            put("error", error)

    thread = threading.Thread(target=draw, name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            kind, value = waiting.get()
            if kind == "error":
                raise cast(BaseException, value)
            if kind == "end":
                return
            yield cast(Item, value)
    finally:
        stopped.set()
        thread.join()
