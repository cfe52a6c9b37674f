"""MXNet's files of parameters, read without MXNet.

No size in a file is believed before it is compared with the file's own.
"""

import contextlib
import io
import os
import pathlib
import struct
import zipfile
from collections.abc import Iterator, Mapping, Sequence

import jax
import numpy as np

from optax_ftml import _checks
from optax_ftml.mxnet import _ndarray

Path = str | os.PathLike[str]

_LIST_MAGIC = 0x112


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
        if data.startswith(b"PK\x03\x04"):
            return _read_npz(io.BytesIO(data))
        if data.startswith(np.lib.format.MAGIC_PREFIX):
            return [_read_npy(io.BytesIO(data))]
        return _read_list(io.BytesIO(data))


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


def _read_list(file):
    magic, _, count = _ndarray.read_numbers(file, "QQQ")
    is_right, right = magic == _LIST_MAGIC, f"{_LIST_MAGIC:#x}"
    _checks.check(is_right, "its magic number", right, f"{magic:#x}")
    arrays = []
    for i in range(count):
        with about(f"array {i} (the first is 0)"):
            arrays.append(_ndarray.read_array(file))
    names = []
    (count,) = _ndarray.read_numbers(file, "Q")
    for i in range(count):
        with about(f"the name of array {i}"):
            (size,) = _ndarray.read_numbers(file, "Q")
            names.append(str(_ndarray.read(file, size), "utf-8"))
    _ndarray.check_end(file)
    return _by_name(names, arrays) if names else arrays


def _by_name(names, arrays):
    found = dict(zip(names, arrays, strict=True))
    _checks.check(len(found) == len(names), "its names", "different", names)
    return found


def _read_npz(file):
    names, arrays = [], []
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        # What is stored without compression is smaller than the file, unless
        # members overlap.
        size = sum(member.file_size for member in members)
        limit = file.getbuffer().nbytes
        right = f"at most the file's {limit} bytes"
        _checks.check(size <= limit, "its entries' size", right, size)
        for member in members:
            name = member.filename.removesuffix(".npy")
            with about(f"entry {name!r}"):
                is_dense = not name.endswith("/format")
                _checks.check(is_dense, "it", _ndarray.DENSE, "a sparse array")
                if member.compress_type != zipfile.ZIP_STORED:
                    raise ValueError("it must not be compressed")
                arrays.append(_read_npy(io.BytesIO(archive.read(member))))
            names.append(name)
    return _by_name(names, arrays)


def _read_npy(file):
    version = np.lib.format.read_magic(file)
    # Others are for records and for longer headers than those of numbers.
    _checks.check(version == (1, 0), "its npy version", "1.0", version)
    shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
    is_number = dtype.kind in "biuf"
    _checks.check(is_number, "its dtype", "one of numbers", repr(dtype.str))
    _checks.check(min(shape, default=0) >= 0, "its shape", "known", shape)
    # Unlike NumPy's own reader this takes no memory before it compares sizes.
    array = np.frombuffer(file.read(), dtype)
    return array.reshape(shape, order="F" if is_fortran else "C").copy()
