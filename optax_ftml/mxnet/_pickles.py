"""MXNet's pickles, read and written without running anything in them.

A pickle is a program for a machine with a stack, and Python's own machine
calls whatever the program names. The one here has no instruction that calls
anything: what a program may name is listed below, and becomes plain values,
or an `Object`, which is a name and its data.
"""

import dataclasses
import pickle
import pickletools
from typing import Any

import numpy as np

from optax_ftml.mxnet import _ndarray

NDARRAYS = (
    "mxnet.ndarray.ndarray.NDArray",
    "mxnet.ndarray.NDArray",
    "mxnet.numpy.multiarray.ndarray",
)
SPARSE = (
    "mxnet.ndarray.sparse.RowSparseNDArray",
    "mxnet.ndarray.sparse.CSRNDArray",
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
_BYTES = ("builtins.bytearray", "__builtin__.bytearray", "_codecs.encode")
_NUMPY_SCALARS = (
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
)
_RECONSTRUCTORS = ("copy_reg._reconstructor", "copyreg._reconstructor")
_ALLOWED = {
    *NDARRAYS,
    *SPARSE,
    *FTML,
    *SCHEDULERS,
    *_BYTES,
    *_NUMPY_SCALARS,
    *_RECONSTRUCTORS,
    "numpy.dtype",
    "builtins.object",
    "__builtin__.object",
}


# Instructions that put their argument on the stack.
_PLAIN = {
    "INT",
    "BININT",
    "BININT1",
    "BININT2",
    "LONG",
    "LONG1",
    "FLOAT",
    "BINFLOAT",
    "STRING",
    "BINSTRING",
    "SHORT_BINSTRING",
    "UNICODE",
    "BINUNICODE",
    "SHORT_BINUNICODE",
    "BINUNICODE8",
    "BINBYTES",
    "SHORT_BINBYTES",
    "BINBYTES8",
    "BYTEARRAY8",
}


@dataclasses.dataclass(frozen=True)
class Global:
    """The name of a class or function."""

    name: str


@dataclasses.dataclass
class Object:
    """An object that a pickle describes: its class and its data."""

    name: str
    args: tuple = ()
    state: dict = dataclasses.field(default_factory=dict)


def loads(data: bytes) -> Any:
    """Returns what a pickle holds: plain values and `Object`s.

    Raises:
        ValueError: What it names is not allowed, or it is not a pickle.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[Any, Any] = {}

    def pop_to_mark():
        mark = marks.pop()
        items = stack[mark:]
        del stack[mark:]
        return items

    def pop(count):
        if len(stack) < count:
            raise IndexError
        items = stack[-count:]
        del stack[-count:]
        return items

    try:
        for opcode, argument, _ in pickletools.genops(data):
            match opcode.name:
                case "PROTO" | "FRAME":
                    pass
                case "STOP":
                    return stack.pop()
                case "MARK":
                    marks.append(len(stack))
                case "NONE" | "NEWTRUE" | "NEWFALSE":
                    stack.append(
                        {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[
                            opcode.name
                        ]
                    )
                case name if name in _PLAIN:
                    stack.append(argument)
                case "EMPTY_TUPLE":
                    stack.append(())
                case "TUPLE1" | "TUPLE2" | "TUPLE3":
                    stack.append(tuple(pop(int(opcode.name[-1]))))
                case "TUPLE":
                    stack.append(tuple(pop_to_mark()))
                case "EMPTY_LIST":
                    stack.append([])
                case "LIST":
                    stack.append(pop_to_mark())
                case "APPEND":
                    _append(stack[-2], pop(1))
                case "APPENDS":
                    items = pop_to_mark()
                    _append(stack[-1], items)
                case "EMPTY_DICT":
                    stack.append({})
                case "DICT":
                    items = pop_to_mark()
                    stack.append({})
                    _set_items(stack[-1], items)
                case "SETITEM":
                    _set_items(stack[-3], pop(2))
                case "SETITEMS":
                    items = pop_to_mark()
                    _set_items(stack[-1], items)
                case "MEMOIZE":
                    memo[len(memo)] = stack[-1]
                case "PUT" | "BINPUT" | "LONG_BINPUT":
                    memo[argument] = stack[-1]
                case "GET" | "BINGET" | "LONG_BINGET":
                    stack.append(memo[argument])
                case "GLOBAL":
                    stack.append(_global(*str(argument).split(" ", 1)))
                case "STACK_GLOBAL":
                    stack.append(_global(*pop(2)))
                case "REDUCE":
                    stack.append(_reduce(*pop(2)))
                case "NEWOBJ":
                    cls, args = pop(2)
                    stack.append(_object(cls, args))
                case "BUILD":
                    (state,) = pop(1)
                    _build(stack[-1], state)
                case name:
                    raise ValueError(f"the instruction {name} is not allowed")
    except (IndexError, KeyError) as error:
        raise ValueError("the pickle is corrupted") from error
    raise AssertionError("genops ends with STOP or an error")


def _append(target, items):
    if type(target) is not list:
        raise ValueError(f"cannot append to a {type(target).__name__}")
    target.extend(items)


def _set_items(target, items):
    if type(target) is not dict or len(items) % 2:
        raise ValueError(f"cannot set items of a {type(target).__name__}")
    for key, value in zip(items[::2], items[1::2], strict=True):
        # Others need not have a hash, or can be too deep for one.
        if type(key) not in (int, str):
            raise ValueError(
                f"keys must be integers or strings, got a {type(key).__name__}"
            )
        target[key] = value


def _global(module, name):
    full = f"{module}.{name}"
    if not isinstance(module, str) or full not in _ALLOWED:
        raise ValueError(
            f"it names {full}, which is refused: only MXNet's arrays, its FTML "
            "and its four schedulers are read"
        )
    return Global(full)


def _object(cls, args):
    if not isinstance(cls, Global) or cls.name in (*_BYTES, *_NUMPY_SCALARS):
        raise ValueError("it makes an object of what is not a class")
    return Object(cls.name, args)


def _reduce(function, args):
    name = getattr(function, "name", None)
    kinds = tuple(type(a) for a in args) if type(args) is tuple else None
    if name in _BYTES and kinds == (bytes,):
        return args[0]
    if name in _BYTES and kinds == (str, str):  # bytes, from Python 2
        return args[0].encode("latin-1")
    if name in _NUMPY_SCALARS and kinds == (Object, bytes):
        return _numpy_scalar(*args)
    if name in _RECONSTRUCTORS and kinds == (Global, Global, type(None)):
        return _object(args[0], ())
    if name in NDARRAYS or name == "numpy.dtype":
        return _object(function, args)
    raise ValueError(f"a call that is not allowed: {name}{kinds}")


def _numpy_scalar(dtype, data):
    codes = ("f2", "f4", "f8", "i4", "i8", "b1")
    code = dtype.args[0] if dtype.args else None
    if dtype.name != "numpy.dtype" or code not in codes:
        raise ValueError("a NumPy scalar of an unknown dtype")
    return np.frombuffer(data, f"<{code}", count=1).item()


def _build(target, state):
    if not isinstance(target, Object):
        raise ValueError(f"cannot set the state of a {type(target).__name__}")
    if target.name != "numpy.dtype":
        if type(state) is not dict:
            raise ValueError(f"{target.name} must have a dict as its state")
        target.state = state


def dumps(value: Any, np_shape: bool) -> bytes:
    """Returns the pickle of plain values, arrays and `Object`s.

    Args:
        value: Arrays become MXNet's, and an `Object` what it describes.
        np_shape: Of the arrays, see `_ndarray.write_array`.
    """

    def dump(value):
        match value:
            case np.ndarray():
                data = _ndarray.write_array(value, np_shape)
                return (
                    b"cmxnet.ndarray.ndarray\nNDArray\nN\x85R}"
                    + _plain("handle")
                    + b"cbuiltins\nbytearray\n"
                    + _plain(data)
                    + b"\x85Rsb"
                )
            case Object():
                module, _, name = value.name.rpartition(".")
                return b"c%b\n%b\n)\x81%bb" % (
                    module.encode(),
                    name.encode(),
                    dump(value.state),
                )
            case dict():
                items = [dump(x) for item in value.items() for x in item]
                return b"}(%bu" % b"".join(items)
            case tuple():
                return b"(%bt" % b"".join(map(dump, value))
            case _:
                return _plain(value)

    # The oldest protocol with a form for bytes.
    return b"\x80\x03" + dump(value) + b"."


def _plain(value):
    # Without the protocol at its beginning and the stop at its end.
    return pickle.dumps(value, protocol=3)[2:-1]
