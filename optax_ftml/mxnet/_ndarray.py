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

import jax.numpy as jnp
import numpy as np

_V1, _V2, _V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA

_STORAGES = {-1: "undefined", 1: "row_sparse", 2: "csr"}

_MAX_NDIM = 32

_CPU = 1

_CODES = "f4", "f8", "f2", "u1", "i4", "i1", "i8", "?", "i2", "u2", "u4", "u8"
_DTYPES = [np.dtype(code) for code in (*_CODES, jnp.bfloat16)]


class Reader:
    """Takes one thing after another from bytes, and never more than there is.

    Args:
        data: The bytes.
    """

    def __init__(self, data: bytes | bytearray):
        self._data = memoryview(data)

    @property
    def left(self) -> int:
        """How many bytes are left."""
        return len(self._data)

    def take(self, size: int) -> memoryview:
        """Returns the next `size` bytes."""
        if size > self.left:
            raise ValueError(
                f"it needs {size} bytes, but the file has {self.left} left"
            )
        taken, self._data = self._data[:size], self._data[size:]
        return taken

    def numbers(self, form: str) -> tuple[int, ...]:
        """Returns the next integers, of a format of :mod:`struct`."""
        form = f"<{form}"
        return struct.unpack(form, self.take(struct.calcsize(form)))


def read_array(reader: Reader) -> np.ndarray:
    """Returns the array that begins where the reader stands.

    Raises:
        ValueError: It is sparse or corrupted.
    """
    (magic,) = reader.numbers("I")
    if magic in (_V2, _V3):
        (storage,) = reader.numbers("i")
        if storage != 0:
            raise ValueError(
                f"it must be dense, got storage type {storage} "
                f"({_STORAGES.get(storage, 'unknown')}). Save it as "
                'array.tostype("default")'
            )
    has_magic = magic in (_V1, _V2, _V3)
    (ndim,) = reader.numbers("i") if has_magic else (magic,)
    if ndim == (-1 if magic == _V3 else 0):
        raise ValueError("it holds no array: its shape is unknown")
    if not 0 <= ndim <= _MAX_NDIM:
        raise ValueError(
            f"it must have a known magic number and at most {_MAX_NDIM} "
            f"dimensions, got magic number {magic:#x} and {ndim} dimensions"
        )
    shape = reader.numbers(f"{ndim}{'q' if has_magic else 'I'}")
    if min(shape, default=0) < 0:
        raise ValueError(f"it must have a known shape, got {shape}")
    _, _, flag = reader.numbers("iii")
    if not 0 <= flag < len(_DTYPES):
        raise ValueError(f"it must have a known dtype, got number {flag}")
    dtype = _DTYPES[flag]
    data = reader.take(math.prod(shape) * dtype.itemsize)
    return np.frombuffer(data, dtype).reshape(shape).copy()


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
    if array.size == 0 or array.ndim == 0:
        np_shape = True
    magic = _V3 if np_shape else _V2
    header = struct.pack(
        f"<Iii{array.ndim}qiii",
        *(magic, 0, array.ndim),
        *array.shape,
        *(_CPU, 0, _DTYPES.index(array.dtype)),
    )
    return header + array.tobytes()
