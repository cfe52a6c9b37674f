"""Corrupted and hostile files are refused, and nothing in them is run."""

import codecs
import contextlib
import io
import os
import pathlib
import pickle
import random
import re
import resource
import struct
import sys
import time
import zipfile

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
    """Returns what is in a file, or None if it is refused as it should be."""
    load = mxnet.load_params if path.suffix in PARAMS else mxnet.load_states
    found = message = None
    with _within_limits():
        try:
            found = load(path)
        except ValueError as error:
            message = f"{error} {error.__cause__!r}"
    if message is not None:
        assert message.startswith(f"{str(path)!r} is not a ")
        assert "MemoryError" not in message
    return found


PARAMS = {".params", ".npz", ".npy"}


def _assert_sound(found, size):
    """Asserts that what was read is arrays of no more than the file's size."""
    if isinstance(found, mxnet.UpdaterStates):
        arrays = [x for slots in found.slots.values() for x in slots]
    else:
        arrays = list(found.values()) if isinstance(found, dict) else found
    arrays = [x for x in arrays if x is not None]
    assert all(type(x) is np.ndarray for x in arrays)
    assert sum(x.nbytes for x in arrays) <= size


def _mutated(data, rng):
    """Returns bytes with up to five changes of the kinds that files suffer."""
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 5])):
        start = rng.randrange(len(data) + 1)
        end = start + rng.choice([1, 2, 4, 8, 64])
        other = rng.randrange(len(data) + 1)
        size = len(data[start:end])
        match rng.randrange(6):
            case 0:
                del data[start:]
            case 1:
                del data[start:end]
            case 2:
                data[start:end] = rng.randbytes(size)
            case 3:
                data[start:end] = size * rng.choice([b"\0", b"\x7f", b"\xff"])
            case 4:
                data[start:start] = rng.choice([1, 1000]) * data[start:end]
            case 5:
                data[start:end] = data[other : other + rng.randrange(32)]
    return bytes(data)


@pytest.mark.parametrize(
    "count", [600, pytest.param(20_000, marks=pytest.mark.slow)]
)
def test_mutated_files_are_refused_or_read(tmp_path, count):
    originals = sorted(FILES.iterdir())
    for seed in range(count):
        rng = random.Random(seed)
        original = originals[seed % len(originals)]
        data = _mutated(original.read_bytes(), rng)
        path = tmp_path / f"file{original.suffix}"
        path.write_bytes(data)
        found = _load(path)
        if found is not None:
            _assert_sound(found, len(data))


def _list(array, count=1, names=(), magic=0x112):
    """Returns a file of parameters around the bytes of an array."""
    data = struct.pack("<QQQ", magic, 0, count) + array
    data += struct.pack("<Q", len(names))
    return data + b"".join(struct.pack("<Q", n) + text for n, text in names)


def _array(
    magic=0xF993FAC9, storage=0, shape=(2,), ndim=None, flag=0, data=bytes(8)
):
    ndim = len(shape) if ndim is None else ndim
    return (
        struct.pack("<Iii", magic, storage, ndim)
        + struct.pack(f"<{len(shape)}q", *shape)
        + struct.pack("<iii", 1, 0, flag)
        + data
    )


LISTS = {
    "old header of terabytes": _list(struct.pack("<IIiii", 1, 2**31, 1, 0, 1)),
    "unknown magic": _list(_array(magic=0xDEADBEEF)),
    "undefined storage": _list(_array(storage=-1)),
    "unknown shape": _list(_array(magic=0xF993FACA, shape=(), ndim=-1)),
    "ndim of 2^31 - 1": _list(_array(ndim=2**31 - 1)),
    "33 dimensions": _list(_array(shape=(1,) * 33)),
    "negative dimensions": _list(_array(shape=(-1, -2))),
    "exabytes": _list(_array(shape=(2**62,))),
    "dimensions whose product is 2^64": _list(_array(shape=(2**32, 2**32))),
    "unknown dtype": _list(_array(flag=13)),
    "2^64 - 1 arrays": _list(_array(), count=2**64 - 1),
    "name of exabytes": _list(_array(), names=[(2**62, b"a")]),
    "name twice": _list(_array() * 2, 2, [(1, b"a"), (1, b"a")]),
    "bytes after the end": _list(_array()) + b"x",
    "empty": b"",
    "states": (FILES / "2_plain_100_trainer.states").read_bytes(),
}


class _Attack:
    """Runs a command if it is unpickled."""

    def __reduce__(self):
        return os.system, ("true",)


def _npy(descr="'<f4'", shape="(2,)", order="False", data=bytes(8)):
    header = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}}}"
    size = struct.pack("<H", len(header) + 1)
    return b"\x93NUMPY\1\0" + size + header.encode() + b"\n" + data


def _objects():
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
    "object arrays": _objects(),
    "exabytes": _npy(shape=f"({2**62},)"),
    "a product that overflows": _npy(shape=f"({2**63}, {2**63})"),
    "negative dimensions": _npy(shape="(-1, -2)"),
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
    "compressed": _npz({"a.npy": _npy()}, zipfile.ZIP_DEFLATED),
    "zip bomb": _npz({"a.npy": bytes(10**8)}, zipfile.ZIP_DEFLATED),
    "entry twice": TWO.replace(b"b.npy", b"a.npy"),
    "sizes of gigabytes": TWO.replace(
        2 * struct.pack("<I", len(_npy())), 2 * struct.pack("<I", 2**32 - 2)
    ),
    "wrong checksum": TWO.replace(bytes(8), b"\x01" + bytes(7), 1),
    "sparse": (FILES / "2_sparse.npz").read_bytes(),
}


def _text(text):
    return b"X" + struct.pack("<I", len(text)) + text.encode()


def _bytes(data):
    return b"B" + struct.pack("<I", len(data)) + data


def _pickled_array(array=None):
    handle = b"cbuiltins\nbytearray\n" + _bytes(array or _array()) + b"\x85R"
    return NDARRAY + b"}" + _text("handle") + handle + b"sb"


def _states(slots=None, optimizer=None, key=b"K\x00"):
    slots = 3 * _pickled_array() + b"\x87" if slots is None else slots
    states = b"}" + key + slots + b"s"
    if optimizer is not None:
        states += optimizer + b"\x86"
    return b"\x80\x03" + states + b"."


def _ftml(field, value):
    """Returns an FTML whose numbers are 0, with another field."""
    names = (
        "lr beta1 beta2 epsilon rescale_grad clip_gradient wd num_update "
        "begin_num_update multi_precision"
    )
    numbers = b"".join(_text(name) + b"K\x00" for name in names.split(" "))
    fields = b"}(" + numbers + _text(field) + value + b"u"
    return b"cmxnet.optimizer.ftml\nFTML\n)\x81" + fields + b"b"


def _call(name, arguments):
    return b"c" + name.replace(" ", "\n").encode() + b"\n" + arguments + b"R"


NDARRAY = _call("mxnet.ndarray.ndarray NDArray", b"N\x85")
DEEP = 100_000
COMMAND = _text("true") + b"\x85"

NAMES = [
    "os system",
    "posix system",
    "subprocess Popen",
    "builtins eval",
    "__builtin__ eval",
    "builtins getattr",
    "functools partial",
    "pickle loads",
    "numpy load",
    "numpy.core.multiarray _reconstruct",
    "mxnet.optimizer.ftml FTML.__init__",
    "mxnet.optimizer.adam Adam",
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
    "FTML for an array": 3 * _ftml("wd", b"K\x00") + b"\x87",
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
}
for code in (b"\x8d", b"\x8e", b"\x95", b"\x96"):
    SLOTS[f"a length of 2^62 after {code!r}"] = code + struct.pack("<Q", 2**62)
KEYS = {
    "nested tuples": b")" + b"\x85" * DEEP,
    "array": _pickled_array(),
    "NaN": b"G" + struct.pack(">d", np.nan),
}
OPTIMIZERS = {
    "Adam": _ftml("wd", b"K\x00").replace(b".ftml\n", b".adam\n"),
    "an array": _pickled_array(),
    "FTML with wd of text": _ftml("wd", _text("1")),
    "FTML with a scheduler of its own": _ftml("lr_scheduler", b"K\x00"),
    "FTML with lr_mult of text": _ftml("lr_mult", _text("1")),
}
LARGE = _array(shape=(MEGABYTE // 4,), data=bytes(MEGABYTE))
PICKLES = {name: _states(_call(name, COMMAND)) for name in NAMES}
PICKLES |= {
    f"{name} from the stack": _states(
        b"".join(map(_text, name.split(" "))) + b"\x93" + COMMAND + b"R"
    )
    for name in NAMES
}
PICKLES |= {name: _states(slots) for name, slots in SLOTS.items()}
PICKLES |= {f"{n} as key": _states(key=key) for n, key in KEYS.items()}
PICKLES |= {
    f"{n} as optimizer": _states(optimizer=o) for n, o in OPTIMIZERS.items()
}
PICKLES |= {
    f"attack in protocol {p}": pickle.dumps({0: _Attack()}, protocol=p)
    for p in range(pickle.HIGHEST_PROTOCOL + 1)
}
PICKLES |= {
    "a megabyte named 300 times": b"\x80\x03"
    + _pickled_array(LARGE)
    + b"q\x00}("
    + b"".join(
        b"M" + struct.pack("<H", i) + b"h\0h\0h\0\x87" for i in range(99)
    )
    + b"u.",
    "an empty file": b"",
    "no stop": b"\x80\x03}",
    "a list": b"].",
    "parameters": (FILES / "1_named.params").read_bytes(),
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
        (".params", _list(_array(), names=[(1, b"a")])),
        (".npy", _npy()),
        (".npz", _npz({"a.npy": _npy()})),
        (".states", _states()),
    ],
)
def test_the_pieces_are_sound(tmp_path, suffix, data):
    """What the hostile files are made of is read without an error."""
    path = tmp_path / f"file{suffix}"
    path.write_bytes(data)
    _assert_sound(_load(path), len(data))


def test_a_nested_name_is_no_name(tmp_path):
    nested = b")" + b"\x85" * DEEP
    optimizer = _ftml("idx2name", b"}K\x00" + nested + b"s")
    path = tmp_path / "file.states"
    path.write_bytes(_states(optimizer=optimizer))
    assert _load(path).options["lr_mult"] == {}


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
    path.write_bytes(_states(_call("os system", COMMAND)))
    with pytest.raises(
        ValueError, match=re.escape("os.system, which is refus")
    ):
        mxnet.load_states(path)
