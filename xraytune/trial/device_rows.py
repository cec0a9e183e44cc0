"""Rows of arrays, such as pixels or cached features, on the device, where training steps look them up.

All rows are copied there once if they take no more than a quarter of the free memory. Otherwise a step's rows are part of
its draws: those of several steps are copied from pinned memory, while the device still computes the steps before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array: TypeAlias = tuple[int, Callable[[NDArray[np.int64]], NDArray[Any]]]
"""The number of rows, and a function that reads some of them."""
DRAWN_BYTES = 2**25
"""Of the draws that are copied at once; and of all rows on a CPU, where processes share the memory-mapped arrays."""
_ROWS_AT_ONCE = 1024


class DeviceRows:
    """The rows of several arrays, all of one shape, numbered from the first array to the last.

    Attributes:
        drawn_bytes: The size of a row's draw.
    """

    def __init__(self, arrays: Sequence[Array], device: str) -> None:
        self._reads = [read for _, read in arrays]
        self._ends = np.cumsum([count for count, _ in arrays])
        self._like = self._reads[0](np.zeros(1, dtype=np.int64))
        self._all: Tensor | None = None
        self.drawn_bytes, total = self._like.nbytes, int(self._ends[-1])
        if total * self.drawn_bytes <= _room_bytes(device):
            parts = np.array_split(np.arange(total), -(-total // _ROWS_AT_ONCE))
            self._all = torch.cat([pinned(self._read(part), device).to(device) for part in parts])
            self.drawn_bytes = self._ends.itemsize

    def draw(self, numbers: NDArray[np.int64]) -> NDArray[Any]:
        """Return what `look_up` needs for some rows, [steps, B], on the device: their numbers, or the rows themselves."""
        return self._read(numbers) if self._all is None else numbers

    def look_up(self, drawn: Tensor) -> Tensor:
        """Return the rows of a step, [B, ...]."""
        return drawn if self._all is None else self._all.index_select(0, drawn)

    def _read(self, numbers: NDArray[np.int64]) -> NDArray[Any]:
        rows = np.empty((*numbers.shape, *self._like.shape[1:]), dtype=self._like.dtype)
        arrays = np.searchsorted(self._ends, numbers, side="right")
        for array in np.unique(arrays).tolist():
            mask, first = arrays == array, self._ends[array - 1] if array else 0
            rows[mask] = self._reads[array](numbers[mask] - first)
        return rows


def pinned(array: NDArray[Any], device: str) -> Tensor:
    """Return an array as a tensor that can be copied to the device without waiting for it."""
    tensor = torch.from_numpy(array)
    return tensor if device == "cpu" else tensor.pin_memory()


def _room_bytes(device: str) -> float:
    if device == "cpu":
        return DRAWN_BYTES
    free, total = torch.cuda.mem_get_info()
    return min(free, torch.cuda.get_per_process_memory_fraction() * total) / 4
