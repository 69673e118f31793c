"""The tensors of one request to Triton: in shared memory if there is room, else within the messages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import np_to_triton_dtype, triton_to_np_dtype

from dermbatch.models.served import Array, ServedModel
from workers.triton.sharedmemory import Arena, SharedMemory, Slice, padded


class Tensors:
    """Inputs and outputs of one request.

    Args:
        model: Which is asked.
        items: Tensor name to array, without the batch dimension; a single item if the model has no batches.
        outputs: Names of the tensors wanted.
    """

    def __init__(self, model: ServedModel, items: Sequence[Mapping[str, Array]], outputs: Sequence[str]) -> None:
        self.items = items
        self._model = model
        self._outputs = outputs
        self._slice: Slice | None = None
        self._places: dict[str, tuple[int, int]] = {}  # offset and bytes in the slice

    @property
    def arena(self) -> Arena | None:
        """In which they lie; none where they go within the messages."""
        return None if self._slice is None else self._slice.arena

    def share(self, memory: SharedMemory) -> None:
        """Take shared memory, if there is any, for inputs and for outputs whose size the contract states."""
        first, rows = self.items[0], len(self.items)
        size, places = 0, {}
        for name, value in first.items():
            places[name] = size, rows * value.nbytes
            size += padded(rows * value.nbytes)
        for name in self._outputs:
            shape = self._model.map_shape(name, first["IMAGE"]) if "IMAGE" in first else None
            if shape is not None:
                places[f"{_OUTPUT}{name}"] = size, rows * math.prod(shape)  # maps are of uint8
                size += padded(rows * math.prod(shape))
        self._slice = memory.take(size)
        self._places = places if self._slice is not None else {}

    def give_back(self) -> None:
        """Give shared memory back, once Triton has finished with it. Harmless a second time."""
        if self._slice is not None:
            taken, self._slice = self._slice, None
            taken.arena.give_back(taken)

    def inputs(self) -> list[triton.InferInput]:
        """The inputs as Triton's client takes them; batches are put together at the place where they are read."""
        inputs = []
        for name, first in self.items[0].items():
            rows = [item[name] for item in self.items]
            shape = first.shape if self._model.max_batch == 0 else (len(rows), *first.shape)
            tensor = triton.InferInput(name, list(shape), np_to_triton_dtype(first.dtype))
            if self._slice is None:
                tensor.set_data_from_numpy(first if self._model.max_batch == 0 else np.stack(rows))
            else:
                region, offset, size = self._place(self._slice, name)
                np.stack(rows, out=region.view(offset, (len(rows), *first.shape), first.dtype))
                tensor.set_shared_memory(region.name, size, offset)
            inputs.append(tensor)
        return inputs

    def wanted(self) -> list[triton.InferRequestedOutput]:
        """The outputs to ask for."""
        wanted = []
        for name in self._outputs:
            tensor = triton.InferRequestedOutput(name)
            if self._slice is not None and _OUTPUT + name in self._places:
                region, offset, size = self._place(self._slice, _OUTPUT + name)
                tensor.set_shared_memory(region.name, size, offset)
            wanted.append(tensor)
        return wanted

    def answers(self, result: Any) -> list[dict[str, Array]]:
        """The outputs, item by item; read-only.

        Raises:
            ModelContractError: If some are missing.
        """
        arrays = {name: value for name in self._outputs if (value := self._output(result, name)) is not None}
        if missing := [name for name in self._outputs if name not in arrays]:
            raise self._model.broken(f"did not answer {', '.join(missing)}")
        if self._model.max_batch == 0:
            return [arrays]
        rows = len(arrays[self._outputs[0]])
        return [{name: value[n] for name, value in arrays.items()} for n in range(rows)]

    def _output(self, result: Any, name: str) -> Array | None:
        described = result.get_output(name)
        if described is None or self._slice is None or _OUTPUT + name not in self._places:
            value: Array | None = result.as_numpy(name)
            return value
        region, offset, size = self._place(self._slice, _OUTPUT + name)
        shape, dtype = tuple(described.shape), np.dtype(triton_to_np_dtype(described.datatype))
        if math.prod(shape) * dtype.itemsize > size:
            return None
        copy = region.view(offset, shape, dtype).copy()
        copy.setflags(write=False)
        return copy

    def _place(self, taken: Slice, name: str) -> tuple[Arena, int, int]:
        offset, size = self._places[name]
        return taken.arena, taken.offset + offset, size


_OUTPUT = "output "  # before the name, since a model may have an input and an output of one name


def kinds(item: Mapping[str, Array]) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Shapes and types of an item's arrays: what those of one request have in common."""
    return {name: (value.shape, value.dtype) for name, value in item.items()}
