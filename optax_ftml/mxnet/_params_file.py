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
_ZIP_MAGIC = b"PK\x03\x04"


def load_params(path: Path) -> dict[str, np.ndarray] | list[np.ndarray]:
    """Reads a file of parameters, as MXNet 1.x and 2.x write it.

    That is what ``Block.save_parameters``, ``Module.save_checkpoint``,
    ``mxnet.nd.save`` and, in 2.x, ``mxnet.npx.savez`` write: MXNet's own
    format in each of its versions, or an uncompressed ``.npz``. Which of them
    it is, the file's beginning tells, not its name.

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
    with corrupted(path, "a file of MXNet parameters"):
        if data.startswith(_ZIP_MAGIC):
            return _read_npz(data)
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
    names = list(arrays) if isinstance(arrays, Mapping) else []
    values = [
        _ndarray.write_array(np.asarray(array))
        for array in (
            arrays.values() if isinstance(arrays, Mapping) else arrays
        )
    ]
    encoded = [name.encode() for name in names]
    pathlib.Path(path).write_bytes(
        struct.pack("<QQQ", _LIST_MAGIC, 0, len(values))
        + b"".join(values)
        + struct.pack("<Q", len(names))
        + b"".join(struct.pack("<Q", len(name)) + name for name in encoded)
    )


@contextlib.contextmanager
def corrupted(path: Path, kind: str) -> Iterator[None]:
    """Turns every error into a ValueError that names the file."""
    # The readers of zip files, npy headers and pickles have errors of many
    # types.
    try:
        yield
    except Exception as error:
        raise ValueError(
            f"{os.fspath(path)!r} is not {kind} that can be read: "
            f"{str(error)[:400]}."
        ) from error


def _read_list(data):
    reader = _ndarray.Reader(data)
    magic = reader.number("Q", "the file's magic number")
    if magic != _LIST_MAGIC:
        raise ValueError(
            f"its magic number must be {_LIST_MAGIC:#x}, got {magic:#x}"
        )
    reader.number("Q", "the reserved number")
    count = _count(reader, "arrays")
    arrays = [
        _ndarray.read_array(reader, f"array {i} (the first is 0)")
        for i in range(count)
    ]
    names = []
    for i in range(_count(reader, "names")):
        what = f"the name of array {i}"
        names.append(str(reader.take(reader.number("Q", what), what), "utf-8"))
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


def _count(reader, what):
    count = reader.number("Q", f"the number of {what}")
    # Each takes at least 8 bytes.
    if count * 8 > reader.left:
        raise ValueError(
            f"it says that it has {count} {what}, but has {reader.left} bytes "
            "left"
        )
    return count


def _read_npz(data):
    arrays = {}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = archive.infolist()
        for member in members:
            if member.filename.endswith("/format.npy"):
                raise ValueError(
                    f"entry {member.filename.removesuffix('/format.npy')!r} "
                    "must be dense, got a sparse array. Save it as "
                    'array.tostype("default")'
                )
        # Members that are stored cannot be larger than the file, unless they
        # overlap.
        if sum(member.file_size for member in members) > len(data):
            raise ValueError("its entries are larger than the file")
        for member in members:
            name = member.filename.removesuffix(".npy")
            if member.compress_type != zipfile.ZIP_STORED:
                raise ValueError(
                    f"entry {name!r} must not be compressed, as MXNet writes it"
                )
            if name in arrays:
                raise ValueError(f"it has two entries {name!r}")
            arrays[name] = _read_npy(archive.read(member), name)
    return arrays


def _read_npy(data, name):
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"entry {name!r} has npy version {version}")
    shape, fortran_order, dtype = (
        np.lib.format.read_array_header_1_0(file)
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0(file)
    )
    if dtype.kind not in "biuf":
        raise ValueError(
            f"entry {name!r} must have a known dtype, got {dtype.str!r}"
        )
    left = len(data) - file.tell()
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != left:
        raise ValueError(
            f"entry {name!r} of shape {shape} and {dtype} does not have the "
            f"size of its data, {left} bytes"
        )
    array = np.frombuffer(data, dtype, offset=file.tell())
    return array.reshape(shape, order="F" if fortran_order else "C").copy()
