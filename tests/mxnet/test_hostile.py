"""Corrupted and hostile files are refused, and nothing in them is run."""

import io
import os
import pathlib
import pickle
import random
import re
import resource
import struct
import zipfile

import numpy as np
import pytest

from optax_ftml import mxnet

FILES = pathlib.Path(__file__).parents[1] / "data" / "mxnet_files"
HUGE = 2**40


def _truncations(name, every):
    """Returns the file, cut off at each of its first bytes and some others."""
    data = (FILES / name).read_bytes()
    ends = sorted({*range(64), *range(64, len(data), every)} - {len(data)})
    return {f"{name} cut at {end}": data[:end] for end in ends}


def _list(array, count=1, names=(), magic=0x112):
    """Returns a file of parameters around the bytes of an array."""
    data = struct.pack("<QQQ", magic, 0, count) + array
    data += struct.pack("<Q", len(names))
    return data + b"".join(struct.pack("<Q", n) + text for n, text in names)


def _array(
    magic=0xF993FAC9,
    storage=0,
    shape=(2,),
    ndim=None,
    device=1,
    flag=0,
    data=bytes(8),
):
    ndim = len(shape) if ndim is None else ndim
    return (
        struct.pack("<Iii", magic, storage, ndim)
        + struct.pack(f"<{len(shape)}q", *shape)
        + struct.pack("<iii", device, 0, flag)
        + data
    )


def _hostile_lists():
    good = _array()
    arrays = {
        "wrong magic": _array(magic=0xDEADBEEF),
        "old header with too many dimensions": struct.pack("<I", 1000),
        "old header of terabytes": struct.pack("<IIiii", 1, 2**32 - 1, 1, 0, 1),
        "V1 header of terabytes": struct.pack(
            "<Iiqiii", 0xF993FAC8, 1, HUGE, 1, 0, 1
        ),
        "row_sparse": _array(storage=1),
        "csr": _array(storage=2),
        "undefined storage": _array(storage=-1),
        "unknown storage": _array(storage=77),
        "no dimensions": _array(shape=()),
        "unknown shape": _array(magic=0xF993FACA, shape=(), ndim=-1),
        "ndim of -2": _array(shape=(), ndim=-2),
        "ndim of 2^31 - 1": _array(ndim=2**31 - 1),
        "ndim of 33": _array(shape=(1,) * 33),
        "negative dimension": _array(shape=(-2,)),
        "two negative dimensions": _array(shape=(-1, -2)),
        "terabytes": _array(shape=(HUGE,)),
        "dimensions whose product overflows": _array(shape=(2**62, 2**62, 4)),
        "dimensions whose product is 2^64": _array(shape=(2**32, 2**32)),
        "unknown device": _array(device=0),
        "unknown dtype": _array(flag=13),
        "negative dtype": _array(flag=-1),
        "too little data": _array(data=bytes(7)),
        "too much data": _array(data=bytes(9)),
    }
    files = {name: _list(array) for name, array in arrays.items()}
    return files | {
        "another file's magic": _list(good, magic=0x113),
        "2^60 arrays": _list(good, count=2**60),
        "2^64 - 1 arrays": _list(good, count=2**64 - 1),
        "one array too many": _list(good, count=2),
        "name of terabytes": _list(good, names=[(HUGE, b"a")]),
        "more names than arrays": _list(good, names=[(1, b"a"), (1, b"b")]),
        "name twice": _list(good * 2, 2, [(1, b"a"), (1, b"a")]),
        "name not in UTF-8": _list(good, names=[(1, b"\xff")]),
        "bytes after the end": _list(good) + b"x",
        "2^60 names": struct.pack("<QQQ", 0x112, 0, 0)
        + struct.pack("<Q", 2**60),
        "empty": b"",
        "text": b"these are not parameters, but words",
        "states": (FILES / "2_plain_100_trainer.states").read_bytes(),
    }


def _npy(header, data=bytes(8), version=b"\x01\x00"):
    header = header.encode()
    return (
        b"\x93NUMPY" + version + struct.pack("<H", len(header)) + header + data
    )


def _npz(members, compression=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return file.getvalue()


def _header(descr="'<f4'", shape="(2,)", order="False"):
    return (
        f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n"
    )


def _hostile_npz():
    good = _npy(_header())
    objects = io.BytesIO()
    np.save(objects, np.array([_Attack()], dtype=object), allow_pickle=True)
    members = {
        "pickled objects": objects.getvalue(),
        "terabytes in npy": _npy(_header(shape=f"({HUGE},)")),
        "overflowing npy": _npy(_header(shape=f"({2**63}, {2**63})")),
        "negative shape in npy": _npy(_header(shape="(-2,)")),
        "objects in npy": _npy(_header("'|O'")),
        "records in npy": _npy(_header("[('a', '<f4'), ('b', '<f4')]")),
        "strings in npy": _npy(_header("'<U1'")),
        "times in npy": _npy(_header("'<M8[s]'")),
        "code in an npy header": _npy("__import__('os').system('false')\n"),
        "nested npy header": _npy("(" * 3000 + ")" * 3000),
        "long npy header": _npy(_header(shape="(" + "1," * 20000 + ")")),
        "npy version 9": _npy(_header(), version=b"\x09\x00"),
        "npy without data": _npy(_header(), b""),
        "npy with data left": _npy(_header(), bytes(9)),
        "no npy": b"something else",
        "empty member": b"",
    }
    files = {name: _npz([("a.npy", m)]) for name, m in members.items()}
    stored = _npz([("a.npy", good), ("b.npy", good)])
    size = struct.pack("<II", len(good), len(good))
    return files | {
        "compressed": _npz([("a.npy", good)], zipfile.ZIP_DEFLATED),
        "bomb": _npz([("a.npy", bytes(10**7))], zipfile.ZIP_DEFLATED),
        "entry twice": stored.replace(b"b.npy", b"a.npy"),
        "sizes of gigabytes": stored.replace(
            size, struct.pack("<II", 2**32 - 2, 2**32 - 2)
        ),
        "wrong checksum": stored.replace(bytes(8), b"\x01" + bytes(7), 1),
        "sparse": (FILES / "2_sparse.npz").read_bytes(),
    }


class _Attack:
    """Would leave a file behind if it were unpickled."""

    def __reduce__(self):
        return os.system, ("touch executed",)


def _text(text):
    return b"X" + struct.pack("<I", len(text)) + text.encode()


def _bytes(data):
    return b"B" + struct.pack("<I", len(data)) + data


NDARRAY = b"cmxnet.ndarray.ndarray\nNDArray\nN\x85R"


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
    fields = b"}" + _text(field) + value + b"s"
    return b"cmxnet.optimizer.ftml\nFTML\n)\x81" + fields + b"b"


def _call(module, name, argument=b"X\x05\x00\x00\x00false\x85"):
    return b"c%b\n%b\n%bR" % (module.encode(), name.encode(), argument)


def _hostile_pickles():
    deep = 200_000
    names = [
        ("os", "system"),
        ("posix", "system"),
        ("nt", "system"),
        ("subprocess", "Popen"),
        ("builtins", "eval"),
        ("builtins", "exec"),
        ("builtins", "getattr"),
        ("builtins", "__import__"),
        ("builtins", "open"),
        ("builtins", "bytes"),
        ("builtins", "type"),
        ("__builtin__", "eval"),
        ("operator", "attrgetter"),
        ("functools", "partial"),
        ("importlib", "import_module"),
        ("pickle", "loads"),
        ("numpy", "load"),
        ("numpy", "fromfile"),
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy.f2py.crackfortran", "myeval"),
        ("mxnet", "nd"),
        ("mxnet.ndarray.ndarray", "load"),
        ("mxnet.optimizer.ftml", "FTML.__init__"),
        ("mxnet.optimizer.adam", "Adam"),
        ("mxnet.lr_scheduler", "LRScheduler"),
        ("mxnet.optimizer.ftml", "__builtins__"),
        ("optax_ftml.mxnet._pickles", "loads"),
        ("__main__", "MyScheduler"),
        ("optax_ftml", "ftml"),
        ("", ""),
    ]
    calls = {f"{m}.{n}": _states(_call(m, n)) for m, n in names}
    calls |= {
        f"{m}.{n} in the optimizer": _states(optimizer=_ftml("wd", _call(m, n)))
        for m, n in names[:10]
    }
    calls |= {
        f"{m}.{n} by name on the stack": _states(
            _text(m) + _text(n) + b"\x93" + b"X\x05\x00\x00\x00false\x85R"
        )
        for m, n in names[:10]
    }
    slots = {
        "terabytes of a bytearray": _call(
            "builtins", "bytearray", b"\x8a\x06" + b"\x00" * 5 + b"\x01\x85"
        ),
        "a bytearray from a list": _call("builtins", "bytearray", b"]\x85"),
        "a NumPy scalar without dtype": _call(
            "numpy.core.multiarray", "scalar", b"N" + _bytes(b"abcd") + b"\x86"
        ),
        "a NumPy scalar of objects": b"cnumpy.core.multiarray\nscalar\n"
        + b"cnumpy\ndtype\n"
        + _text("O8")
        + b"\x89\x88\x87R"
        + _bytes(bytes(8))
        + b"\x86R",
        "an instance of bytearray": b"cbuiltins\nbytearray\n)\x81",
        "an instance of text": _text("FTML") + b")\x81",
        "state of a class": b"cmxnet.ndarray.ndarray\nNDArray\n}b",
        "state of a function": b"cbuiltins\nbytearray\n}b",
        "state of a dict": b"}}b",
        "state that is text": NDARRAY + _text("handle") + b"b",
        "array without data": NDARRAY,
        "array of no handle": NDARRAY + b"}" + _text("handle") + b"Nsb",
        "array twice as long": _pickled_array(_array() * 2),
        "array of integers": _pickled_array(_array(flag=4)),
        "array of terabytes": _pickled_array(_array(shape=(HUGE,))),
        "sparse array": _pickled_array().replace(
            b"ndarray.ndarray\nNDArray", b"ndarray.sparse\nCSRNDArray"
        ),
        "array of sparse storage": _pickled_array(_array(storage=1)),
        "one array": _pickled_array(),
        "no arrays": b")",
        "momentum alone": _pickled_array() + b"\x85",
        "Adam's two": 2 * _pickled_array() + b"\x86",
        "numbers": b"K\x01K\x02K\x03\x87",
        "None": b"N",
        "text": _text("d"),
        "shapes that differ": 2 * _pickled_array()
        + _pickled_array(_array(shape=(1,), data=bytes(4)))
        + b"\x87",
        "dtypes that differ": 2 * _pickled_array()
        + _pickled_array(_array(shape=(1,), flag=1))
        + b"\x87",
        "FTML for an array": 3 * _ftml("wd", b"K\x00") + b"\x87",
        "deep lists": b"]" * deep + b"a" * (deep - 1),
        "deep tuples": b")" + b"\x85" * deep,
        "deep dicts": b"}K\x00" * deep + b"}" + b"s" * deep,
        "deep marks": b"(" * deep + b"t" * deep,
        "a list in itself": b"]q\x05h\x05a",
        "a billion laughs": b"]q\x00" + b"h\x00h\x00\x86q\x00" * 60,
        "memo that is not there": b"h\x07",
        "memo of 2^31": b"j\xff\xff\xff\x7f",
        "text of terabytes": b"\x8d" + struct.pack("<Q", HUGE),
        "bytes of terabytes": b"\x8e" + struct.pack("<Q", HUGE),
        "bytearray of terabytes": b"\x96" + struct.pack("<Q", HUGE),
        "bytes of 2^64 - 1": b"\x8e" + struct.pack("<Q", 2**64 - 1),
        "a long of gigabytes": b"\x8b" + struct.pack("<i", 2**31 - 1),
        "a long with a million digits": b"L" + b"9" * 10**6 + b"L\n",
        "text not in UTF-8": b"X\x01\x00\x00\x00\xff",
        "persistent id": b"Pid\n",
        "persistent id on the stack": b"N\x51",
        "extension": b"\x82\x01",
        "instance": b"(ios\nsystem\n",
        "object": b"(cos\nsystem\no",
        "set": b"\x8f",
        "next buffer": b"\x97",
        "keywords": b"cmxnet.ndarray.ndarray\nNDArray\n)}\x92",
        "append to a dict": b"}K\x00a",
        "item of a list": b"]K\x00K\x00s",
        "items without a value": b"}(K\x00u",
        "pop of nothing": b"\x87",
        "a mark that is not there": b"t",
        "unknown instruction": b"\xff",
    }
    optimizers = {
        "Adam": _states(
            optimizer=_ftml("wd", b"K\x00").replace(b".ftml\n", b".adam\n")
        ),
        "a dict as optimizer": _states(optimizer=b"}"),
        "FTML without fields": _states(optimizer=_ftml("wd", b"K\x00")),
        "learning rate as text": _states(optimizer=_ftml("lr", _text("0"))),
        "deep learning rate": _states(
            optimizer=_ftml("lr", b"]" * deep + b"a" * (deep - 1))
        ),
        "array as optimizer": _states(optimizer=_pickled_array()),
    }
    keys = {
        "a tuple as key": b")",
        "a deep tuple as key": b")" + b"\x85" * deep,
        "a list as key": b"]",
        "an array as key": _pickled_array(),
        "NaN as key": b"G" + struct.pack(">d", np.nan),
    }
    files = calls | optimizers
    files |= {name: _states(s) for name, s in slots.items()}
    files |= {name: _states(key=key) for name, key in keys.items()}
    files |= {
        f"attack in protocol {p}": pickle.dumps({0: _Attack()}, protocol=p)
        for p in range(pickle.HIGHEST_PROTOCOL + 1)
    }
    return files | {
        "an empty file": b"",
        "an empty pickle": b".",
        "no stop": b"\x80\x03}",
        "a list": b"].",
        "a tuple of three": b"}}}\x87.",
        "parameters": (FILES / "1_named.params").read_bytes(),
        "an archive": (FILES / "2_dtypes.npz").read_bytes(),
    }


def _random_changes(name, count):
    """Returns the file with some bytes changed where sizes are."""
    data = (FILES / name).read_bytes()
    rng = random.Random(name)
    changed = {}
    for i in range(count):
        copy = bytearray(data)
        copy[rng.randrange(24)] ^= 1 << rng.randrange(8)
        copy[24 + 4 * rng.randrange(3)] ^= 0x80
        changed[f"{name} changed {i}"] = bytes(copy)
    return changed


PARAMS = (
    _hostile_lists()
    | _hostile_npz()
    | _truncations("1_named.params", 7)
    | _truncations("2_np_shape.params", 1)
    | _truncations("2_dtypes.npz", 97)
    | _random_changes("1_unnamed.params", 20)
)
STATES = (
    _hostile_pickles()
    | _truncations("1_multi_precision_100_trainer.states", 61)
    | _truncations("2_plain_100_updater.states", 61)
)


def test_there_are_enough():
    assert len(PARAMS) + len(STATES) >= 300


@pytest.fixture
def little_memory():
    """Fails what asks for more than 4 GB on top of what there is."""
    status = pathlib.Path("/proc/self/statm").read_text()
    used = int(status.split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**32, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def _assert_refused(load, path):
    with pytest.raises(ValueError, match=re.escape(repr(str(path)))) as error:
        load(path)
    assert not isinstance(error.value.__cause__, MemoryError | RecursionError)
    assert 20 < len(str(error.value)) < 800
    assert not pathlib.Path("executed").exists()


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("name", PARAMS)
def test_parameters_are_refused(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "file"
    path.write_bytes(PARAMS[name])
    _assert_refused(mxnet.load_params, path)


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("name", STATES)
def test_states_are_refused(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "file"
    path.write_bytes(STATES[name])
    _assert_refused(mxnet.load_states, path)


def test_the_pieces_are_sound(tmp_path):
    """What the hostile files are made of is read without an error."""
    path = tmp_path / "file"
    path.write_bytes(_list(_array(), names=[(1, b"a")]))
    assert mxnet.load_params(path)["a"].shape == (2,)
    path.write_bytes(_npz([("a.npy", _npy(_header()))]))
    assert mxnet.load_params(path)["a"].shape == (2,)
    path.write_bytes(_states())
    assert mxnet.load_states(path).slots[0].d.shape == (2,)


@pytest.mark.parametrize("load", [mxnet.load_params, mxnet.load_states])
def test_missing_files_are_missing(tmp_path, load):
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "file")


def test_refused_names_are_named(tmp_path):
    path = tmp_path / "file"
    for module, name in [("os", "system"), ("builtins", "eval")]:
        path.write_bytes(_states(_call(module, name)))
        with pytest.raises(ValueError, match=f"{module}.{name}, .*refused"):
            mxnet.load_states(path)
