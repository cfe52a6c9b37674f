"""Corrupted and hostile files are refused, and nothing in them is run."""

import codecs
import io
import os
import pathlib
import pickle
import random
import resource
import struct
import sys
import time
import traceback
import zipfile

import jax
import numpy as np
import pytest

from optax_ftml import mxnet

FILES = pathlib.Path(__file__).parents[1] / "data" / "mxnet_files"
MEGABYTE = 2**20

# What Python reports of a file that runs something or has a name looked up.
RUNNING = {"exec", "os.system", "pickle.find_class", "subprocess.Popen"}
# Python imports these codecs when they are first used.
for codec in ("cp437", "raw_unicode_escape"):
    codecs.lookup(codec)
reported: list[str] = []
sys.addaudithook(lambda event, _: reported.append(event))


def _load(path):
    """Returns what is in a file, or None if it is refused as it should be.

    Fails what takes 100 MB, or a second, or runs something. What is read must
    be arrays of no more than the file's size.
    """
    is_states = path.suffix == ".states"
    load = mxnet.load_states if is_states else mxnet.load_params
    found, refusal = None, None
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + 100 * MEGABYTE
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    start = time.process_time()
    reported.clear()
    try:
        found = load(path)
    except ValueError as error:
        refusal = error
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert time.process_time() - start < 1
    assert not RUNNING & set(reported)
    if refusal is not None:
        assert str(refusal).startswith(f"{str(path)!r} is not a ")
        causes = traceback.format_exception(refusal)
        assert "MemoryError" not in "".join(causes)
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


def _array(shape=(2,), flag=0, data=bytes(8)):
    header = struct.pack("<Iii", 0xF993FAC9, 0, len(shape))
    header += struct.pack(f"<{len(shape)}q", *shape)
    return header + struct.pack("<iii", 1, 0, flag) + data


def _list(array, count=1, names=bytes(8)):
    """Returns a file of parameters around the bytes of an array."""
    return struct.pack("<QQQ", 0x112, 0, count) + array + names


def _npy(descr="'<f4'", shape="(2,)", data=bytes(8)):
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}"
    size = struct.pack("<H", len(header) + 1)
    return b"\x93NUMPY\1\0" + size + header.encode() + b"\n" + data


def _npz(data, compression=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("a.npy", data)
        archive.writestr("b.npy", data)
    return file.getvalue()


ONE_NAME = struct.pack("<QQc", 1, 1, b"a")
TWO_NAMES = struct.pack("<QQcQc", 2, 1, b"a", 1, b"a")
OBJECTS = io.BytesIO()
np.save(OBJECTS, np.array([_Attack()], dtype=object), allow_pickle=True)
LISTS = {
    "old header of terabytes": _list(struct.pack("<IIiii", 1, 2**31, 1, 0, 1)),
    "33 dimensions": _list(_array((1,) * 33)),
    "dimensions whose product is 2^64": _list(_array((2**32, 2**32))),
    "unknown dtype": _list(_array(flag=13)),
    "name of exabytes": _list(_array(), 1, struct.pack("<QQ", 1, 2**62)),
    "one name for two": _list(2 * _array(), 2, ONE_NAME),
    "name twice": _list(2 * _array(), 2, TWO_NAMES),
    "bytes after the end": _list(_array()) + b"x",
}
NPY = {
    "object array": OBJECTS.getvalue(),
    "exabytes": _npy(shape=f"({2**62},)"),
    "a product that overflows": _npy(shape=f"({2**63}, {2**63})"),
    "a dimension to be inferred": _npy(shape="(-1,)"),
    "code": _npy("__import__('os').system('true')"),
    "nested": _npy("(" * 3000 + ")" * 3000),
}
TWO, SIZE = _npz(_npy()), struct.pack("<I", len(_npy()))
NPZ = {f"{name} in npz": _npz(data) for name, data in NPY.items()} | {
    "compressed": _npz(_npy(), zipfile.ZIP_LZMA),
    "zip bomb": _npz(bytes(10**8), zipfile.ZIP_DEFLATED),
    "gigabytes": TWO.replace(2 * SIZE, 2 * struct.pack("<I", 2**32 - 2)),
    "wrong checksum": TWO.replace(bytes(8), b"\x01" + bytes(7), 1),
}


def _pickled(value):
    """The pickle of a value, in which bytes are what is pickled already."""
    match value:
        case bytes():
            return value
        case dict():
            items = (x for item in value.items() for x in item)
            return b"}(" + b"".join(map(_pickled, items)) + b"u"
        case tuple():
            return b"(" + b"".join(map(_pickled, value)) + b"t"
    return pickle.dumps(value, protocol=3)[2:-1]


def _file(value):
    return b"\x80\x03" + _pickled(value) + b"."


def _name(name):
    return b"c" + name.replace(" ", "\n").encode() + b"\n"


NDARRAY = _name("mxnet.ndarray.ndarray NDArray") + b"N\x85R"


def _pickled_array(**array):
    return NDARRAY + _pickled({"handle": bytearray(_array(**array))}) + b"b"


def _ftml(**fields):
    """An FTML whose numbers are 0, but for these fields."""
    names = """
        lr beta1 beta2 epsilon rescale_grad clip_gradient wd num_update
        begin_num_update multi_precision
    """
    state = _pickled(dict.fromkeys(names.split(), 0) | fields)
    return _name("mxnet.optimizer.ftml FTML") + b")\x81" + state + b"b"


ARRAY = _pickled_array()
BYTES = _name("builtins bytearray")
SCALAR = _name("numpy.core.multiarray scalar") + _name("numpy dtype")
NESTED = b")" + b"\x85" * 100_000
# A billion laughs: a tuple that has itself twice, 60 times over.
LAUGHS = b")q\x00" + b"h\x00\x86q\x00" * 60
SLOTS = {
    "scalar of objects": SCALAR + _pickled(("O8",)) + b"RK\x00\x86R",
    "attribute of a class": NDARRAY[:-3] + _pickled((None, {"name": 0})) + b"b",
    "arrays twice as long": 3 * (_pickled_array(data=bytes(16)),),
    "arrays of integers": 3 * (_pickled_array(flag=4),),
    "Adam's two": (ARRAY, ARRAY),
    "shapes that differ": (_pickled_array(shape=(2, 1)), ARRAY, ARRAY),
    "nested tuples": NESTED,
    "nested marks": b"(" * 20_000 + b"t" * 20_000,
    "nested objects": NDARRAY * 20_000 + b"b" * 19_999,
    "a billion laughs": LAUGHS,
    "memo of 2^31": b"r\xff\xff\xff\x7f",
    "a long of gigabytes": b"\x8b" + struct.pack("<i", 2**31 - 1),
    "long integers of one hash": b"}(%bu"
    % b"".join(b"I%d\nN" % (i * (2**61 - 1)) for i in range(30_000)),
    "a long with a million digits": b"L" + b"9" * 10**6 + b"L\n",
}
for code in (b"Pid\n", b"\x82\x01", b"(ios\nf\n", b"(cos\nf\no", b"t"):
    SLOTS[f"instruction {code!r}"] = code
for code in (b"\x8d", b"\x8e", b"\x95", b"\x96"):
    SLOTS[f"2^62 bytes after {code!r}"] = code + struct.pack("<Q", 2**62)
KEYS = {
    "nested tuples": NESTED,
    "laughs as bytes": BYTES + LAUGHS + b"\x85R",
    "array": ARRAY,
    "NaN": np.nan,
}
# With nothing to fill in, BUILD, APPENDS and SETITEMS leave a tuple a tuple.
for end in (b"", b"Nb", b"(e", b"(u"):
    KEYS[f"laughs and {end!r}"] = LAUGHS + end
OPTIMIZERS = {
    "Adam": _ftml().replace(b".ftml\n", b".adam\n"),
    "array as optimizer": ARRAY,
    "FTML with wd of text": _ftml(wd="1"),
    "FTML with wd of laughs": _ftml(wd=LAUGHS),
    "FTML with a scheduler of its own": _ftml(lr_scheduler=0),
    "FTML with lr_mult of laughs": _ftml(lr_mult={0: LAUGHS}),
    "FTML with two counts": _ftml(_index_update_count={0: 1, 1: 2}),
}
STATES = {0: (ARRAY, ARRAY, ARRAY)}
LARGE = _pickled_array(shape=(MEGABYTE // 4,), data=bytes(MEGABYTE))
MANY = {b"K%c" % i: b"h\x09h\x09h\x09\x87" for i in range(99)}
PICKLES = {
    "a megabyte named 300 times": _file(LARGE + b"q\x09" + _pickled(MANY)),
    "a list": b"].",
}
for name in (
    *("os system", "builtins eval"),
    *("mxnet.ndarray.sparse CSRNDArray", "mxnet.optimizer.ftml FTML.__init__"),
):
    command = _pickled(("true",)) + b"R"
    from_stack = b"".join(map(_pickled, name.split())) + b"\x93"
    PICKLES[name] = _file({0: _name(name) + command})
    PICKLES[f"{name} from the stack"] = _file({0: from_stack + command})
for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
    PICKLES[f"protocol {protocol}"] = pickle.dumps({0: _Attack()}, protocol)
PICKLES |= {name: _file({0: slots}) for name, slots in SLOTS.items()}
PICKLES |= {f"{x} as key": _file({KEYS[x]: STATES[0]}) for x in KEYS}
PICKLES |= {name: _file((STATES, x)) for name, x in OPTIMIZERS.items()}
HOSTILE = {".params": LISTS, ".npy": NPY, ".npz": NPZ, ".states": PICKLES}


@pytest.mark.parametrize(
    ("suffix", "name"), [(s, name) for s in HOSTILE for name in HOSTILE[s]]
)
def test_hostile_files_are_refused(tmp_path, suffix, name):
    path = tmp_path / f"file{suffix}"
    path.write_bytes(HOSTILE[suffix][name])
    assert _load(path) is None


READ = [
    (".params", _list(_array(), 1, ONE_NAME)),
    (".npy", _npy()),
    (".npz", TWO),
    (".states", _file((STATES, _ftml()))),
    # A nested name is no name.
    (".states", _file((STATES, _ftml(idx2name={0: NESTED})))),
]


@pytest.mark.parametrize(("suffix", "data"), READ)
def test_what_hostile_files_are_made_of_is_read(tmp_path, suffix, data):
    path = tmp_path / f"file{suffix}"
    path.write_bytes(data)
    assert _load(path) is not None


def test_refused_names_are_named_and_missing_files_are_missing(tmp_path):
    path = tmp_path / "file"
    for load in (mxnet.load_params, mxnet.load_states):
        with pytest.raises(FileNotFoundError):
            load(path)
    path.write_bytes(PICKLES["os system"])
    with pytest.raises(ValueError, match=r"names os\.system, which is refused"):
        mxnet.load_states(path)
