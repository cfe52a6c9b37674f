"""MXNet's binary form of an array, in every version that it has had.

All numbers are little-endian. An array is

    uint32 magic     V2, or V3 for NumPy's shapes (with () and zeros in them)
    int32  storage   0 for dense
    int32  ndim, int64 each dimension
    int32  device type, int32 device number
    int32  dtype
    the elements in C order

V1, before sparse storage, has no `storage`. Before that there was no magic
either: the first number is ndim, and dimensions are uint32.
"""

import math
import struct
from typing import BinaryIO

import jax.numpy as jnp
import numpy as np

from optax_ftml import _checks

_V1, _V2, _V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
DENSE = 'dense, as array.tostype("default") makes it'
_STORAGES = {-1: "undefined", 1: "row_sparse", 2: "csr"}
_MAX_NDIM = 32
_CPU = 1
_CODES = "f4", "f8", "f2", "u1", "i4", "i1", "i8", "?", "i2", "u2", "u4", "u8"
_DTYPES = [np.dtype(code) for code in (*_CODES, jnp.bfloat16)]


def read_array(file: BinaryIO) -> np.ndarray:
    """Returns the array at a file's position.

    Raises:
        ValueError: It is sparse or corrupted.
    """
    (magic,) = read_numbers(file, "I")
    has_magic = magic in (_V1, _V2, _V3)
    if magic in (_V2, _V3):
        (storage,) = read_numbers(file, "i")
        got = f"storage type {storage} ({_STORAGES.get(storage, 'unknown')})"
        _checks.check(storage == 0, "it", DENSE, got)
    (ndim,) = read_numbers(file, "i") if has_magic else (magic,)
    least = 0 if magic == _V3 else 1  # Below is an array of unknown shape.
    right = f"an array of {least} to {_MAX_NDIM} dimensions"
    got = f"{ndim} dimensions after the magic number {magic:#x}"
    _checks.check(least <= ndim <= _MAX_NDIM, "it", right, got)
    # An unknown dimension, -1, is more than there is when read without a sign.
    shape = read_numbers(file, f"{ndim}{'Q' if has_magic else 'I'}")
    _, _, flag = read_numbers(file, "iii")
    known = range(len(_DTYPES))
    _checks.check(flag in known, "its dtype", "known", f"number {flag}")
    dtype = _DTYPES[flag]
    data = read(file, math.prod(shape) * dtype.itemsize)
    return np.frombuffer(data, dtype).reshape(shape).copy()


def read_numbers(file: BinaryIO, form: str) -> tuple[int, ...]:
    """Returns a file's next integers, of a format of :mod:`struct`."""
    form = f"<{form}"
    return struct.unpack(form, read(file, struct.calcsize(form)))


def read(file: BinaryIO, size: int) -> bytes:
    """Returns a file's next `size` bytes, and raises where there are fewer."""
    data = file.read(size)
    if len(data) < size:
        raise ValueError(f"it ends {size - len(data)} bytes too early")
    return data


def check_end(file: BinaryIO) -> None:
    """Raises unless the file ends where it has been read to."""
    left = len(file.read())
    _checks.check(left == 0, "it", "at its end", f"{left} bytes more")


def write_array(array: np.ndarray, np_shape: bool = False) -> bytes:
    """Returns an array as MXNet writes it.

    Args:
        array: The array.
        np_shape: For an MXNet that is set to NumPy's shapes. It may not read
            the other version, nor the other MXNet this one. Shapes with a 0 in
            them and () are NumPy's always.
    """
    if array.dtype not in _DTYPES:
        raise ValueError(f"MXNet has no dtype {array.dtype}")
    has_np_shape = np_shape or array.size == 0 or array.ndim == 0
    header = struct.pack(
        f"<Iii{array.ndim}qiii",
        *(_V3 if has_np_shape else _V2, 0, array.ndim),
        *array.shape,
        *(_CPU, 0, _DTYPES.index(array.dtype)),
    )
    return header + array.tobytes()
