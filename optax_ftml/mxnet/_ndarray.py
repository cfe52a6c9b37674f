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
_DEVICES = {1: "cpu", 2: "gpu", 3: "cpu_pinned", 5: "cpu_shared"}

_DTYPES = [
    np.dtype(dtype)
    for dtype in (
        "float32",
        "float64",
        "float16",
        "uint8",
        "int32",
        "int8",
        "int64",
        "bool",
        "int16",
        "uint16",
        "uint32",
        "uint64",
        jnp.bfloat16,
    )
]


class Reader:
    """Takes one thing after another from bytes, and never more than there is.

    Args:
        data: The bytes.
    """

    def __init__(self, data: bytes):
        self._data = memoryview(data)
        self._position = 0

    @property
    def left(self) -> int:
        """How many bytes are left."""
        return len(self._data) - self._position

    def take(self, size: int, what: str) -> memoryview:
        """Returns the next `size` bytes, which are `what`."""
        if size > self.left:
            raise ValueError(
                f"{what} needs {size} bytes, but the file has {self.left} left"
            )
        self._position += size
        return self._data[self._position - size : self._position]

    def number(self, code: str, what: str) -> int:
        """Returns the next integer, of a struct format code."""
        (number,) = struct.unpack(
            f"<{code}", self.take(struct.calcsize(f"<{code}"), what)
        )
        return number


def read_array(reader: Reader, entry: str) -> np.ndarray:
    """Returns the next array.

    Args:
        reader: Stands where the array begins.
        entry: What the array is called in an error.
    """
    magic = reader.number("I", f"the magic number of {entry}")
    if magic in (_V2, _V3):
        storage = reader.number("i", f"the storage type of {entry}")
        if storage != 0:
            raise ValueError(
                f"{entry} must be dense, got storage type {storage} "
                f"({_STORAGES.get(storage, 'unknown')}). Save it as "
                'array.tostype("default")'
            )
    if magic in (_V1, _V2, _V3):
        ndim = reader.number("i", f"the number of dimensions of {entry}")
    else:
        ndim = magic
    if ndim == (-1 if magic == _V3 else 0):
        raise ValueError(f"{entry} holds no array: its shape is unknown")
    if not 0 <= ndim <= _MAX_NDIM:
        raise ValueError(
            f"{entry} must have a known magic number and at most {_MAX_NDIM} "
            f"dimensions, got magic number {magic:#x} and {ndim} dimensions"
        )
    shape = tuple(
        reader.number(
            "q" if magic in (_V1, _V2, _V3) else "I", f"the shape of {entry}"
        )
        for _ in range(ndim)
    )
    if min(shape, default=0) < 0:
        raise ValueError(f"{entry} must have a known shape, got {shape}")
    device = reader.number("i", f"the device of {entry}")
    if device not in _DEVICES:
        raise ValueError(f"{entry} must be on a known device, got {device}")
    reader.number("i", f"the device of {entry}")
    flag = reader.number("i", f"the dtype of {entry}")
    if not 0 <= flag < len(_DTYPES):
        raise ValueError(f"{entry} must have a known dtype, got number {flag}")
    dtype = _DTYPES[flag]
    data = reader.take(
        math.prod(shape) * dtype.itemsize, f"{entry} of shape {shape}"
    )
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
    return (
        struct.pack("<Iii", magic, 0, array.ndim)
        + struct.pack(f"<{array.ndim}q", *array.shape)
        + struct.pack("<iii", _CPU, 0, _DTYPES.index(array.dtype))
        + array.tobytes()
    )
