"""Corrupted and hostile files are refused, and nothing in them is run."""

import codecs
import contextlib
import io
import os
import pathlib
import pickle
import random
import resource
import struct
import sys
import time
import zipfile

import jax
import numpy as np
import pytest

from optax_ftml import mxnet

FILES = pathlib.Path(__file__).parents[1] / "data" / "mxnet_files"
MEGABYTE = 2**20

# What Python reports of a program that a file runs.
RUNNING = {
    "exec",
    "os.exec",
    "os.posix_spawn",
    "os.remove",
    "os.system",
    "pickle.find_class",  # of the unpickler that looks a name up
    "subprocess.Popen",
}
# Python imports these codecs when they are first used.
for codec in ("cp437", "raw_unicode_escape"):
    codecs.lookup(codec)
reported: list[str] = []
sys.addaudithook(lambda event, _: reported.append(event))


@contextlib.contextmanager
def _within_limits():
    """Fails what takes 100 MB, or a second, or runs something."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + 100 * MEGABYTE
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    start = time.process_time()
    reported.clear()
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
        seconds = time.process_time() - start
    assert not RUNNING & set(reported)
    assert seconds < 1


def _load(path):
    """Returns what is in a file, or None if it is refused as it should be.

    What is read must be arrays of no more than the file's size.
    """
    is_states = path.suffix == ".states"
    load = mxnet.load_states if is_states else mxnet.load_params
    found = refusal = None
    with _within_limits():
        try:
            found = load(path)
        except ValueError as error:
            refusal = error
    if refusal is not None:
        assert str(refusal).startswith(f"{str(path)!r} is not a ")
        while refusal is not None:
            assert not isinstance(refusal, MemoryError)
            refusal = refusal.__cause__
        return None
    arrays = jax.tree.leaves(found.slots if is_states else found)
    assert all(type(x) is np.ndarray for x in arrays)
    assert sum(x.nbytes for x in arrays) <= path.stat().st_size
    return found


def _mutated(data, rng):
    """Returns bytes with up to five changes of the kinds that files suffer."""
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 5])):
        start, other = (rng.randrange(len(data) + 1) for _ in range(2))
        size = rng.choice([1, 2, 4, 8, 64])
        fillings = [
            b"",
            rng.randbytes(size),
            size * rng.choice([b"\0", b"\x7f", b"\xff"]),
            data[other : other + size],
            1000 * data[start : start + size],
        ]
        ends = [start, start + size, start + size, len(data)]
        data[start : rng.choice(ends)] = rng.choice(fillings)
    return bytes(data)


@pytest.mark.parametrize(
    "count", [600, pytest.param(20_000, marks=pytest.mark.slow)]
)
def test_mutated_files_are_refused_or_read(tmp_path, count):
    originals = sorted(FILES.iterdir())
    for seed in range(count):
        original = originals[seed % len(originals)]
        path = tmp_path / f"file{original.suffix}"
        path.write_bytes(_mutated(original.read_bytes(), random.Random(seed)))
        _load(path)


class _Attack:
    """Runs a command if it is unpickled."""

    def __reduce__(self):
        return os.system, ("true",)


def _array(magic=0xF993FAC9, storage=0, shape=(2,), flag=0, data=bytes(8)):
    header = struct.pack("<Iii", magic, storage, len(shape))
    header += struct.pack(f"<{len(shape)}q", *shape)
    return header + struct.pack("<iii", 1, 0, flag) + data


def _list(array, count=1, names=b"", name_count=0):
    """Returns a file of parameters around the bytes of an array."""
    head = struct.pack("<QQQ", 0x112, 0, count)
    return head + array + struct.pack("<Q", name_count) + names


ONE_NAME = struct.pack("<Q", 1) + b"a"
LISTS = {
    "old header of terabytes": _list(struct.pack("<IIiii", 1, 2**31, 1, 0, 1)),
    "unknown magic": _list(_array(magic=0xDEADBEEF)),
    "undefined storage": _list(_array(storage=-1)),
    "33 dimensions": _list(_array(shape=(1,) * 33)),
    "negative dimensions": _list(_array(shape=(-1, -2))),
    "exabytes": _list(_array(shape=(2**62,))),
    "dimensions whose product is 2^64": _list(_array(shape=(2**32, 2**32))),
    "unknown dtype": _list(_array(flag=13)),
    "2^64 - 1 arrays": _list(_array(), count=2**64 - 1),
    "name of exabytes": _list(_array(), 1, struct.pack("<Q", 2**62), 1),
    "name twice": _list(_array() * 2, 2, ONE_NAME * 2, 2),
    "bytes after the end": _list(_array()) + b"x",
    "empty": b"",
}


def _npy(descr="'<f4'", shape="(2,)", data=bytes(8)):
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}"
    size = struct.pack("<H", len(header) + 1)
    return b"\x93NUMPY\1\0" + size + header.encode() + b"\n" + data


def _object_array():
    file = io.BytesIO()
    np.save(file, np.array([_Attack()], dtype=object), allow_pickle=True)
    return file.getvalue()


def _npz(members, compression=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


NPY = {
    "object array": _object_array(),
    "exabytes": _npy(shape=f"({2**62},)"),
    "a product that overflows": _npy(shape=f"({2**63}, {2**63})"),
    "a dimension to be inferred": _npy(shape="(-1,)"),
    "empty records": _npy("'|V0'", shape=f"({2**62},)"),
    "code": _npy("__import__('os').system('true')"),
    "nested": _npy("(" * 3000 + ")" * 3000),
    "a long header": _npy(shape="(" + "1," * 20000 + ")"),
    "version 9": _npy().replace(b"\1\0", b"\x09\0", 1),
    "too much data": _npy(data=bytes(9)),
}
TWO = _npz({"a.npy": _npy(), "b.npy": _npy()})
NPZ = {f"{name} in npz": _npz({"a.npy": data}) for name, data in NPY.items()}
NPZ |= {
    "compressed": _npz({"a.npy": _npy()}, zipfile.ZIP_LZMA),
    "zip bomb": _npz({"a.npy": bytes(10**8)}, zipfile.ZIP_DEFLATED),
    "entry twice": TWO.replace(b"b.npy", b"a.npy"),
    "sizes of gigabytes": TWO.replace(
        2 * struct.pack("<I", len(_npy())), 2 * struct.pack("<I", 2**32 - 2)
    ),
    "wrong checksum": TWO.replace(bytes(8), b"\x01" + bytes(7), 1),
}


def _plain(value):
    return pickle.dumps(value, protocol=3)[2:-1]


def _text(text):
    return b"X" + struct.pack("<I", len(text)) + text.encode()


def _call(name, arguments):
    return b"c" + name.replace(" ", "\n").encode() + b"\n" + arguments + b"R"


def _pickled_array(array=None):
    fields = {"handle": bytearray(array or _array())}
    return NDARRAY + _plain(fields) + b"b"


def _states(slots=None, optimizer=None, key=b"K\x00"):
    slots = 3 * _pickled_array() + b"\x87" if slots is None else slots
    end = b"." if optimizer is None else optimizer + b"\x86."
    return b"\x80\x03}" + key + slots + b"s" + end


def _ftml(**fields):
    """Returns an FTML whose numbers are 0, with other fields."""
    names = """
        lr beta1 beta2 epsilon rescale_grad clip_gradient wd num_update
        begin_num_update multi_precision
    """
    fields = dict.fromkeys(names.split(), 0) | fields
    return b"cmxnet.optimizer.ftml\nFTML\n)\x81" + _plain(fields) + b"b"


NDARRAY = _call("mxnet.ndarray.ndarray NDArray", b"N\x85")
DEEP = 100_000
COMMAND = _text("true") + b"\x85"
NAMES = [
    "os system",
    "builtins eval",
    "builtins getattr",
    "pickle loads",
    "numpy.core.multiarray _reconstruct",
    "mxnet.optimizer.ftml FTML.__init__",
    "optax_ftml.mxnet._pickles loads",
]
SLOTS = {
    "bytearray of a length": _call("builtins bytearray", b"K\x08\x85"),
    "scalar of objects": _call(
        "numpy.core.multiarray scalar",
        _call("numpy dtype", _text("O8") + b"\x85") + _text("a") + b"\x86",
    ),
    "attribute of a class": b"cmxnet.ndarray.ndarray\nNDArray\nN}"
    + _text("name")
    + b"Ns\x86b",
    "attribute of a function": b"cbuiltins\nbytearray\nN}"
    + _text("__defaults__")
    + b")s\x86b",
    "state that is text": NDARRAY + _text("handle") + b"b",
    "array twice as long": _pickled_array(_array() * 2),
    "array of integers": _pickled_array(_array(flag=4)),
    "array of exabytes": _pickled_array(_array(shape=(2**62,))),
    "sparse array": _pickled_array().replace(
        b"ndarray.ndarray\nNDArray", b"ndarray.sparse\nCSRNDArray"
    ),
    "Adam's two": 2 * _pickled_array() + b"\x86",
    "shapes that differ": 2 * _pickled_array()
    + _pickled_array(_array(shape=(1,), data=bytes(4)))
    + b"\x87",
    "nested lists": b"]" * DEEP + b"a" * (DEEP - 1),
    "nested tuples": b")" + b"\x85" * DEEP,
    "nested dicts": b"}K\x00" * 20_000 + b"}" + b"s" * 20_000,
    "nested marks": b"(" * DEEP + b"t" * DEEP,
    "nested objects": NDARRAY * 20_000 + b"b" * 19_999,
    "a list in itself": b"]q\x05h\x05a",
    "a billion laughs": b"]q\x00" + b"h\x00h\x00\x86q\x00" * 60,
    "memo of 2^31": b"r\xff\xff\xff\x7f",
    "a long of gigabytes": b"\x8b" + struct.pack("<i", 2**31 - 1),
    "a long with a million digits": b"L" + b"9" * 10**6 + b"L\n",
    "persistent id": b"Pid\n",
    "extension": b"\x82\x01",
    "instance": b"(ios\nsystem\n",
    "object": b"(cos\nsystem\no",
    "a mark that is not there": b"t",
    **{
        f"a length of 2^62 after {code!r}": code + struct.pack("<Q", 2**62)
        for code in (b"\x8d", b"\x8e", b"\x95", b"\x96")
    },
}
KEYS = {
    "nested tuples as key": b")" + b"\x85" * DEEP,
    "array as key": _pickled_array(),
    "NaN as key": b"G" + struct.pack(">d", np.nan),
}
OPTIMIZERS = {
    "Adam": _ftml().replace(b".ftml\n", b".adam\n"),
    "array as optimizer": _pickled_array(),
    "FTML with wd of text": _ftml(wd="1"),
    "FTML with a scheduler of its own": _ftml(lr_scheduler=0),
    "FTML with lr_mult of text": _ftml(lr_mult="1"),
}
LARGE = _array(shape=(MEGABYTE // 4,), data=bytes(MEGABYTE))
PICKLES = {
    **{name: _states(_call(name, COMMAND)) for name in NAMES},
    **{
        f"{name} from the stack": _states(
            b"".join(map(_text, name.split(" "))) + b"\x93" + COMMAND + b"R"
        )
        for name in NAMES
    },
    **{name: _states(slots) for name, slots in SLOTS.items()},
    **{name: _states(key=key) for name, key in KEYS.items()},
    **{name: _states(optimizer=x) for name, x in OPTIMIZERS.items()},
    **{
        f"attack in protocol {p}": pickle.dumps({0: _Attack()}, protocol=p)
        for p in range(pickle.HIGHEST_PROTOCOL + 1)
    },
    "a megabyte named 300 times": b"\x80\x03"
    + _pickled_array(LARGE)
    + b"q\x00}("
    + b"".join(b"K%ch\0h\0h\0\x87" % i for i in range(99))
    + b"u.",
    "no stop": b"\x80\x03}",
    "a list": b"].",
}
HOSTILE = {".params": LISTS, ".npy": NPY, ".npz": NPZ, ".states": PICKLES}


@pytest.mark.parametrize(
    ("suffix", "name"), [(s, name) for s in HOSTILE for name in HOSTILE[s]]
)
def test_hostile_files_are_refused(tmp_path, suffix, name):
    path = tmp_path / f"file{suffix}"
    path.write_bytes(HOSTILE[suffix][name])
    assert _load(path) is None


@pytest.mark.parametrize(
    ("suffix", "data"),
    [
        (".params", _list(_array(), 1, ONE_NAME, 1)),
        (".npy", _npy()),
        (".npz", _npz({"a.npy": _npy()})),
        (".states", _states(optimizer=_ftml())),
        # A nested name is no name.
        (
            ".states",
            _states(
                optimizer=_ftml(idx2name={0: "NESTED"}).replace(
                    _text("NESTED"), SLOTS["nested tuples"]
                )
            ),
        ),
    ],
)
def test_what_hostile_files_are_made_of_is_read(tmp_path, suffix, data):
    path = tmp_path / f"file{suffix}"
    path.write_bytes(data)
    assert _load(path) is not None


def test_fortran_order_is_read(tmp_path):
    array = np.arange(6.0).reshape(2, 3)
    np.save(tmp_path / "file.npy", np.asfortranarray(array))
    (found,) = mxnet.load_params(tmp_path / "file.npy")
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("load", [mxnet.load_params, mxnet.load_states])
def test_missing_files_are_missing(tmp_path, load):
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "file")


def test_refused_names_are_named(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(PICKLES["os system"])
    with pytest.raises(ValueError, match=r"names os\.system, which is refused"):
        mxnet.load_states(path)
