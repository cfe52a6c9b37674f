"""MXNet's pickles, read and written without running anything in them.

A pickle is a program that calls what it names. Here the names are those of
MXNet's arrays, FTML and schedulers alone, and each stands for an `Object`,
which does nothing but keep what it is given. Before Python's unpickler sees a
pickle, `_check` refuses what would make it take time or memory out of
proportion to the file.
"""

import io
import pickle
import pickletools
from collections.abc import Collection
from typing import Any

import numpy as np

from optax_ftml import _checks
from optax_ftml.mxnet import _ndarray

NDARRAYS = (
    "mxnet.ndarray.ndarray.NDArray",
    "mxnet.ndarray.NDArray",
    "mxnet.numpy.multiarray.ndarray",
)
FTML = {
    "mxnet.optimizer.FTML": "1.x",
    "mxnet.optimizer.optimizer.FTML": "1.x",
    "mxnet.optimizer.ftml.FTML": "2.x",
}
SCHEDULERS = tuple(
    f"mxnet.lr_scheduler.{kind}Scheduler"
    for kind in ("Factor", "MultiFactor", "Poly", "Cosine")
)

_PUTS = {"MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT"}
_GETS = {"GET", "BINGET", "LONG_BINGET"}
_SETS = {"SETITEM", "SETITEMS", "DICT"}
_OTHERS = """
    PROTO FRAME STOP MARK NONE NEWTRUE NEWFALSE EMPTY_TUPLE TUPLE1 TUPLE2 TUPLE3
    TUPLE EMPTY_LIST LIST APPEND APPENDS EMPTY_DICT INT BININT BININT1 BININT2
    FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE
    SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8
    GLOBAL STACK_GLOBAL REDUCE NEWOBJ BUILD
"""
_INSTRUCTIONS = {*_PUTS, *_GETS, *_SETS, *_OTHERS.split()}
# What instructions leave on the stack that make an integer or text.
_KEYS = {
    *(pickletools.pyint, pickletools.pyinteger_or_bool),
    *(pickletools.pyunicode, pickletools.pybytes_or_str),
}


class Object:
    """An object in a pickle: the name of its class, and its state.

    It has a `__setstate__` so that the unpickler sets no other attribute.
    """

    name = "builtins.object"
    state: Any = None

    def __init__(self, *args):
        self.args = args

    def __setstate__(self, state):
        self.state = state


class _Bytes(Object):
    """Stands for the functions that make bytes: the bytes, or their text.

    In old protocols bytes are text in Latin-1. It is not encoded here, where
    a pickle could ask for that any number of times.
    """

    def __new__(cls, data, *_):
        return data


class _NumpyScalar(Object):
    """Stands for NumPy's function that makes a scalar: a Python number."""

    def __new__(cls, dtype, data):
        code, codes = dtype.args[0], ("f2", "f4", "f8", "i4", "i8", "b1")
        if code not in codes:
            raise ValueError(f"a scalar must be one of {codes}")
        return np.frombuffer(_as_bytes(data[:8]), f"<{code}", count=1).item()


class _Reconstructor(Object):
    """Stands for what makes an object in protocols 0 and 1."""

    def __new__(cls, target, *_):
        return target.__new__(target)


_STAND_INS = {
    **{
        name: type("StandIn", (Object,), {"name": name})
        for name in (*NDARRAYS, *FTML, *SCHEDULERS, "numpy.dtype")
    },
    "builtins.object": Object,
    "__builtin__.object": Object,
    "builtins.bytearray": _Bytes,
    "__builtin__.bytearray": _Bytes,
    "_codecs.encode": _Bytes,
    "numpy.core.multiarray.scalar": _NumpyScalar,
    "numpy._core.multiarray.scalar": _NumpyScalar,
    "copy_reg._reconstructor": _Reconstructor,
    "copyreg._reconstructor": _Reconstructor,
}


def make(name: str, state: dict[str, Any]) -> Object:
    """Returns the object of a class of MXNet's with this state."""
    made = _STAND_INS[name]()
    made.state = state
    return made


def fields_of(value: Any, names: Collection[str], what: str, right: str) -> Any:
    """Returns the state of an object with one of these names, or raises."""
    got = getattr(value, "name", type(value).__name__)
    _checks.check(got in names, what, right, got)
    return value.state


def array_of(value: Any) -> np.ndarray:
    """Returns the floating array that is in a pickled one of MXNet's."""
    state = fields_of(value, NDARRAYS, "d, v and z", "dense arrays")
    file = io.BytesIO(_as_bytes(state["handle"]))
    array = _ndarray.read_array(file)
    _ndarray.check_end(file)
    is_floating = array.dtype.kind == "f"
    _checks.check(is_floating, "d, v and z", "floating", array.dtype)
    return array


def _as_bytes(data):
    """Returns the bytes that a pickle has as they are or as text."""
    return data.encode("latin-1") if isinstance(data, str) else data


def loads(data: bytes) -> Any:
    """Returns what a pickle holds: plain values and `Object`s.

    Raises:
        Exception: What it names is not allowed, or it is not a pickle.
    """
    _check(data)
    return _Unpickler(io.BytesIO(data), encoding="latin-1").load()


class _Unpickler(pickle.Unpickler):
    def find_class(self, module, name):
        full = f"{module}.{name}"
        if full not in _STAND_INS:
            raise ValueError(
                f"it names {full}, which is refused: only MXNet's arrays, its "
                "FTML and its four schedulers are read"
            )
        return _STAND_INS[full]


def _check(data):
    """Raises for what MXNet's pickles do not have.

    That is other instructions, lengths beyond the data (which genops checks),
    a memo larger than the file, and keys that are neither integers of 64 bits
    nor text: the hash of a tuple could overflow the stack or take forever, and
    any number of long integers have the same.
    """
    # What pickletools calls the values on the stack and in the memo.
    stack, memo = [], {}
    for opcode, argument, _ in pickletools.genops(data):
        name, needed = opcode.name, opcode.stack_before
        if name not in _INSTRUCTIONS:
            raise ValueError(f"the instruction {name} is not allowed")
        if name == "INT" and abs(argument) >= 2**63:
            raise ValueError("an integer must fit in 64 bits")
        if name in _PUTS:
            number = len(memo) if argument is None else argument
            is_right, right = number <= len(data), "within the file's size"
            _checks.check(is_right, "a number of its memo", right, number)
            memo[number] = stack[-1]
        elif name in _GETS:
            stack.append(memo[argument])
        else:
            # The last operand first.
            operands = []
            if pickletools.markobject in needed:
                needed = needed[: needed.index(pickletools.markobject)]
                while (operand := stack.pop()) is not pickletools.markobject:
                    operands.append(operand)
            operands += [stack.pop() for _ in needed]
            if name in _SETS and not _KEYS.issuperset(operands[1::2]):
                raise ValueError("a key must be an integer or text")
            stack += opcode.stack_after


def dumps(value: Any, np_shape: bool) -> bytes:
    """Returns the pickle of plain values, arrays and `Object`s.

    Args:
        value: Arrays become MXNet's, and an `Object` what it describes.
        np_shape: Of the arrays, see `_ndarray.write_array`.
    """

    def dump(value):
        match value:
            case np.ndarray():
                data = bytearray(_ndarray.write_array(value, np_shape))
                state = _plain({"handle": data})
                return b"cmxnet.ndarray.ndarray\nNDArray\nN\x85R" + state + b"b"
            case Object():
                module, _, name = value.name.rpartition(".")
                names = f"c{module}\n{name}\n".encode()
                return names + b")\x81" + dump(value.state) + b"b"
            case dict():
                items = [dump(x) for item in value.items() for x in item]
                return b"}(" + b"".join(items) + b"u"
            case tuple():
                return b"(" + b"".join(map(dump, value)) + b"t"
        return _plain(value)

    # The oldest protocol with a form for bytes.
    return b"\x80\x03" + dump(value) + b"."


def _plain(value):
    # Without the protocol at its beginning and the stop at its end.
    return pickle.dumps(value, protocol=3)[2:-1]
