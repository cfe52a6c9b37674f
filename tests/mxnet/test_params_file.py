"""MXNet's files of parameters, there and back."""

import pathlib
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optax_ftml import mxnet
from tests.programs import mxnet_network

FILES = pathlib.Path(__file__).parents[1] / "data" / "mxnet_files"


@pytest.mark.parametrize(
    "name", ["1_named.params", "1_unnamed.params", "2_dtypes.npz"]
)
def test_reads_every_dtype_and_form(name):
    arrays = mxnet.load_params(FILES / name)
    if isinstance(arrays, list):
        arrays = dict(zip(mxnet_network.DTYPES, arrays, strict=True))
    assert arrays.pop("scalar", 2.5) == np.float32(2.5)
    assert list(arrays) == mxnet_network.DTYPES
    for dtype, array in arrays.items():
        assert array.dtype == dtype
        np.testing.assert_array_equal(array, [[1, 2, 3]])
        array += 1  # It is writable.


def test_reads_numpys_shapes_and_files(tmp_path):
    scalar, empty = mxnet.load_params(FILES / "2_np_shape.params")
    assert scalar == np.float32(2.5)
    assert empty.shape == (0, 3)
    (array,) = mxnet.load_params(FILES / "2_array.npy")
    np.testing.assert_array_equal(array, np.float32([[1, 2, 3]]))
    fortran = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    np.save(tmp_path / "file.npy", fortran)
    (array,) = mxnet.load_params(tmp_path / "file.npy")
    np.testing.assert_array_equal(array, fortran)


@pytest.mark.parametrize(
    "header",
    [struct.pack("<Iiqq", 0xF993FAC8, 2, 2, 3), struct.pack("<III", 2, 2, 3)],
)
def test_reads_headers_of_old_versions(tmp_path, header):
    array = np.arange(6, dtype=np.float64).reshape(2, 3)
    header = struct.pack("<QQQ", 0x112, 0, 1) + header
    header += struct.pack("<iii", 2, 0, 1)  # device and dtype
    path = tmp_path / "old.params"
    path.write_bytes(header + array.tobytes() + struct.pack("<Q", 0))
    (found,) = mxnet.load_params(path)
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


def test_parameters_survive_writing_and_reading(tmp_path):
    arrays = {
        "arg:weight": jnp.ones((2, 3), jnp.bfloat16),
        "gewicht-äöü": np.arange(3, dtype=np.uint16),
        "scalar": np.float64(3),
    }
    mxnet.save_params(tmp_path / "file", arrays)
    loaded = mxnet.load_params(tmp_path / "file")
    jax.tree.map(np.testing.assert_array_equal, loaded, arrays)
    assert loaded["arg:weight"].dtype == jnp.bfloat16
    mxnet.save_params(tmp_path / "file", list(arrays.values()))
    assert len(mxnet.load_params(tmp_path / "file")) == 3
    with pytest.raises(ValueError, match="no dtype complex64"):
        mxnet.save_params(tmp_path / "file", [np.ones(1, np.complex64)])


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("1_csr.params", "array 1 .*csr"),
        ("1_row_sparse.params", "array 1 .*row_sparse"),
        ("2_sparse.npz", "entry 'sparse.*sparse"),
    ],
)
def test_sparse_arrays_are_refused(name, entry):
    with pytest.raises(ValueError, match=f"{name}.*{entry}"):
        mxnet.load_params(FILES / name)
