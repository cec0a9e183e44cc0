"""Rows of arrays, such as pixels or cached features, on the device, where steps look them up.

All rows are copied to a GPU once if they take no more than a quarter of its free memory. Otherwise
the rows of several steps are copied from pinned memory, while the device still computes the steps
before.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_ROWS_AT_ONCE = 1024


class DeviceRows:
    """The rows of several arrays, all of one shape, numbered from the first array to the last.

    Attributes:
        row_bytes: What a step copies to the device for each of its rows.
    """

    def __init__(
        self, arrays: Sequence[tuple[int, Callable[[NDArray[np.int64]], NDArray[Any]]]], device: str
    ) -> None:
        """`arrays` are the number of rows of each, and a function that reads some of them."""
        self._arrays = arrays
        self._ends = np.cumsum([count for count, _ in arrays])
        self._first_row = arrays[0][1](np.zeros(1, dtype=np.int64))
        self._all: Tensor | None = None
        self.row_bytes = self._first_row.nbytes
        total = int(self._ends[-1])
        if total * self.row_bytes <= _room_bytes(device):
            parts = np.array_split(np.arange(total), -(-total // _ROWS_AT_ONCE))
            self._all = torch.cat([pinned(self._read(part), device).to(device) for part in parts])
            self.row_bytes = self._ends.itemsize

    def prepare(self, numbers: NDArray[np.int64]) -> NDArray[Any]:
        """Return what `look_up` needs for rows [steps, B]: their numbers, or the rows."""
        return self._read(numbers) if self._all is None else numbers

    def look_up(self, prepared: Tensor) -> Tensor:
        """Return the rows of a step, [B, ...]."""
        return prepared if self._all is None else self._all.index_select(0, prepared)

    def _read(self, numbers: NDArray[np.int64]) -> NDArray[Any]:
        rows = np.empty((*numbers.shape, *self._first_row.shape[1:]), dtype=self._first_row.dtype)
        array_of = np.searchsorted(self._ends, numbers, side="right")
        for index, (count, read) in enumerate(self._arrays):
            mask = array_of == index
            rows[mask] = read(numbers[mask] - self._ends[index] + count)
        return rows


def pinned(array: NDArray[Any], device: str) -> Tensor:
    """Return an array as a tensor that can be copied to the device without waiting for it."""
    tensor = torch.from_numpy(array)
    return tensor if device == "cpu" else tensor.pin_memory()


def _room_bytes(device: str) -> float:
    """Return how much of a device's memory may hold rows.

    None of a CPU's: it reads the memory-mapped arrays at each step.
    """
    if device == "cpu":
        return 0
    free, total = torch.cuda.mem_get_info()
    return min(free, torch.cuda.get_per_process_memory_fraction() * total) / 4
