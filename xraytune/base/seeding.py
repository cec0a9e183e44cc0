"""Derived randomness: a seed for each purpose instead of global state.

`derive_seed(7, "views", 3)` is the same number in every process and on every machine, and two
purposes never share a stream. Loops derive a seed for each step, so the randomness of a step
depends only on its number: a resumed run needs no generator state, and a longer run repeats the
shorter one.
"""

import hashlib

import numpy as np


def derive_seed(seed: int, *purpose: str | int) -> int:
    """Return a 63-bit seed for one purpose, from the first bytes of SHA-256 of both arguments."""
    text = "\x1f".join([str(seed), *map(str, purpose)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def numpy_generator(seed: int, *purpose: str | int) -> np.random.Generator:
    """Return a NumPy generator (PCG64) for one purpose."""
    return np.random.default_rng(derive_seed(seed, *purpose))
