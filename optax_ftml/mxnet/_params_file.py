"""MXNet's files of parameters, read without MXNet.

No size in a file is believed before it is compared with the file's own.
"""

import contextlib
import io
import math
import os
import pathlib
import struct
import zipfile
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence

import jax
import numpy as np

from optax_ftml.mxnet import _ndarray

Path = str | os.PathLike[str]

_LIST_MAGIC = 0x112
_NPZ_MAGIC, _NPY_MAGIC = b"PK\x03\x04", b"\x93NUMPY"


def load_params(path: Path) -> dict[str, np.ndarray] | list[np.ndarray]:
    """Reads a file of parameters, as MXNet 1.x and 2.x write it.

    That is what ``Block.save_parameters``, ``Module.save_checkpoint``,
    ``mxnet.nd.save`` and, in 2.x, ``mxnet.npx.save`` and ``mxnet.npx.savez``
    write: MXNet's own format in each of its versions, a ``.npy`` or an
    uncompressed ``.npz``. The file's beginning tells which, not its name.

    Args:
        path: Where the file is.

    Returns:
        The arrays by name, or a list if they have no names. Names are as in
        the file: ``save_checkpoint`` writes "arg:" or "aux:" before them.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is not such a file or is corrupted, an array is sparse,
            or has a dtype that is unknown; the error says which entry.

    Examples:
        >>> import pathlib, tempfile
        >>> import numpy as np
        >>> from optax_ftml import mxnet
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     path = pathlib.Path(directory, "net.params")
        ...     mxnet.save_params(path, {"0.weight": np.ones((1, 2))})
        ...     mxnet.load_params(path)
        {'0.weight': array([[1., 1.]])}
    """
    data = pathlib.Path(path).read_bytes()
    with about(f"{os.fspath(path)!r} is not a readable file of parameters"):
        if data.startswith(_NPZ_MAGIC):
            return _read_npz(data)
        if data.startswith(_NPY_MAGIC):
            with about("the array"):
                return [_read_npy(io.BytesIO(data), len(data))]
        return _read_list(data)


def save_params(
    path: Path,
    arrays: Mapping[str, jax.typing.ArrayLike] | Sequence[jax.typing.ArrayLike],
) -> None:
    """Writes a file of parameters that MXNet 1.x and 2.x load.

    Args:
        path: Where to write.
        arrays: By name, or in order.

    Raises:
        ValueError: MXNet has no such dtype.

    Examples:
        >>> import tempfile
        >>> import numpy as np
        >>> from optax_ftml import mxnet
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     path = f"{directory}/net.params"
        ...     mxnet.save_params(path, {"bias": np.ones(2, "float32")})
        ...     print(mxnet.load_params(path))
        {'bias': array([1., 1.], dtype=float32)}
    """
    names = []
    if isinstance(arrays, Mapping):
        names, arrays = list(arrays), list(arrays.values())
    encoded = [name.encode() for name in names]
    pathlib.Path(path).write_bytes(
        struct.pack("<QQQ", _LIST_MAGIC, 0, len(arrays))
        + b"".join(_ndarray.write_array(np.asarray(x)) for x in arrays)
        + struct.pack("<Q", len(encoded))
        + b"".join(struct.pack("<Q", len(name)) + name for name in encoded)
    )


@contextlib.contextmanager
def about(what: str) -> Iterator[None]:
    """Makes every error a ValueError that begins with what it is about."""
    # The readers of zip files, npy headers and pickles raise many types.
    try:
        yield
    except Exception as error:
        raise ValueError(f"{what}: {str(error)[:400]}") from error


def _read_list(data):
    reader = _ndarray.Reader(data)
    magic, _, count = reader.numbers("QQQ")
    if magic != _LIST_MAGIC:
        raise ValueError(
            f"its magic number must be {_LIST_MAGIC:#x}, got {magic:#x}"
        )
    arrays = []
    for i in range(count):
        with about(f"array {i} (the first is 0)"):
            arrays.append(_ndarray.read_array(reader))
    names = []
    (count,) = reader.numbers("Q")
    for i in range(count):
        with about(f"the name of array {i}"):
            names.append(str(reader.take(*reader.numbers("Q")), "utf-8"))
    if reader.left:
        raise ValueError(f"{reader.left} bytes are left after its end")
    if not names:
        return arrays
    if len(names) != len(arrays) or len(set(names)) != len(names):
        raise ValueError(
            f"it must have {len(arrays)} different names, got {len(names)}, of "
            f"which {len(set(names))} are different"
        )
    return dict(zip(names, arrays, strict=True))


def _read_npz(data):
    arrays = {}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = archive.infolist()
        # What is stored without compression is smaller than the file, unless
        # members overlap.
        if sum(member.file_size for member in members) > len(data):
            raise ValueError("its entries are larger than the file")
        for member in members:
            name = member.filename.removesuffix(".npy")
            with about(f"entry {name!r}"), archive.open(member) as file:
                if name.endswith("/format"):
                    raise ValueError(
                        "it belongs to a sparse array, and must be dense. Save "
                        'it as array.tostype("default")'
                    )
                if member.compress_type != zipfile.ZIP_STORED:
                    raise ValueError("it must not be compressed")
                if name in arrays:
                    raise ValueError("it is there twice")
                arrays[name] = _read_npy(file, member.file_size)
    return arrays


def _read_npy(file, size):
    """Returns the array of an npy file of this size."""
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"it has npy version {version}")
    read_header = getattr(
        np.lib.format, f"read_array_header_{version[0]}_{version[1]}"
    )
    shape, _, dtype = read_header(file)
    if dtype.kind not in "biuf":
        raise ValueError(f"it must have a known dtype, got {dtype.str!r}")
    if (
        min(shape, default=0) < 0
        or file.tell() + math.prod(shape) * dtype.itemsize != size
    ):
        raise ValueError(
            f"an array of shape {shape} and {dtype} does not have its size"
        )
    file.seek(0)
    return np.lib.format.read_array(file, allow_pickle=False)
