"""Counts what a compiled XLA program executes, from its HLO text."""

import collections
import dataclasses
import math
import re
from typing import NamedTuple

# Instructions that name, group or re-read a buffer and execute nothing.
_FREE = {
    "after-all",
    "bitcast",
    "constant",
    "get-tuple-element",
    "opt-barrier",
    "parameter",
    "tuple",
}
# Instructions whose computations execute; a fusion's are inside its kernel.
_CALLS = {"async-start", "call", "conditional", "while"}
# How the collectives' names start.
_COLLECTIVES = ("all-", "collective-", "ragged-all-to-all", "reduce-scatter")


@dataclasses.dataclass
class Counts:
    """What one device executes in one run of the program.

    A loop's body and every branch of a conditional count once. Bytes are those
    that executed instructions read from and write to main memory: each operand
    once, each result once, and, where a part of an array is moved between main
    memory and an on-chip one, that part. The fields are those of
    :class:`optax_ftml.FusionReport`.
    """

    kernels: int = 0
    fusions: int = 0
    scalar_kernels: int = 0
    copies: int = 0
    copied_bytes: int = 0
    transfers: int = 0
    collectives: tuple[tuple[str, int], ...] = ()
    moved_bytes: int = 0


def count(text: str) -> Counts:
    """Counts the executed instructions of a compiled module.

    Args:
        text: The module as `Compiled.as_text()` prints it.

    Returns:
        The counts.
    """
    entry, computations = _parse(text)
    counts = Counts()
    for instruction, operands in _executed(computations[entry], computations):
        _add(counts, instruction, operands, computations)
    return counts


class _Array(NamedTuple):
    size: int
    nbytes: int
    memory_space: int  # 0 is the device's main memory (HBM).


class _Instruction(NamedTuple):
    opcode: str
    result: list[_Array]
    operands: list[str]  # Names of instructions.
    called: list[str]  # Names of computations.


def _parse(text):
    """Returns the entry computation's name, and all instructions by names."""
    computations = collections.defaultdict(dict)
    entry = name = ""
    for line in text.splitlines():
        if header := re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line):
            name = header[2]
            entry = name if header[1] else entry
        # %name = result opcode(operands), attribute=..., metadata=...
        elif parts := re.match(
            r"\s+(?:ROOT )?%?([\w.\-]+) = (.+?) ([\w\-]+)\((.*)", line
        ):
            call = parts[4].split("metadata=")[0]
            operands, _, attributes = call.partition("), ")
            computations[name][parts[1]] = _Instruction(
                # A custom call of a TPU that executes nothing.
                "bitcast" if "ConcatBitcast" in attributes else parts[3],
                _parse_arrays(parts[2]),
                *(
                    re.findall(r"%([\w.\-]+)", x)
                    for x in (operands, attributes)
                ),
            )
    return entry, computations


def _parse_arrays(text):
    """Returns the arrays of a type, such as (f32[8,128]{1,0:S(1)}, s32[])."""
    arrays = []
    for dtype, dims, layout in re.findall(
        r"([a-z]\w*)\[([\d,]*)\](?:\{([^}]*)\})?", text
    ):
        size = math.prod(int(d) for d in dims.split(",") if d)
        bits = re.search(r"\d+", dtype)
        space = re.search(r"S\((\d+)\)", layout)
        arrays.append(
            _Array(
                size=size,
                nbytes=math.ceil(size * (int(bits[0]) if bits else 8) / 8),
                memory_space=int(space[1]) if space else 0,
            )
        )
    return arrays


def _executed(computation, computations):
    """Yields what executes, each with the arrays of its operands."""
    for instruction in computation.values():
        opcode = instruction.opcode
        if opcode in _CALLS:
            for name in instruction.called:
                yield from _executed(computations[name], computations)
        elif opcode not in _FREE and not opcode.endswith("-done"):
            names = dict.fromkeys(instruction.operands)
            yield instruction, [x for n in names for x in computation[n].result]


def _add(counts, instruction, operands, computations):
    opcode, result = instruction.opcode, instruction.result
    kind = opcode.removesuffix("-start")
    if opcode == "copy-start":
        result = result[:1]  # Then come its source and a semaphore.
    elif opcode == "slice-start":
        result = result[1:2]  # After its source, of which it reads a part.
        operands = [operands[0]._replace(nbytes=result[0].nbytes)]
    elif opcode.startswith(_COLLECTIVES):
        result = result[-1:] if opcode != kind else result
        counts.collectives += ((kind, sum(x.nbytes for x in result)),)
    arrays = [*operands, *result]
    counts.moved_bytes += sum(x.nbytes for x in arrays if x.memory_space == 0)
    copies = _copies(instruction, computations)
    if all(x.size <= 1 for x in arrays):
        counts.scalar_kernels += 1
    elif copies and operands[0].memory_space != result[0].memory_space:
        counts.transfers += 1
    else:
        counts.kernels += 1
        counts.fusions += opcode == "fusion"
        counts.copies += copies
        counts.copied_bytes += copies and sum(x.nbytes for x in result)


def _copies(instruction, computations):
    """Returns how many arrays it copies if that is all it does, else 0."""
    if instruction.opcode in ("copy", "copy-start", "slice-start"):
        return 1
    if instruction.opcode != "fusion":
        return 0
    body = computations[instruction.called[0]].values()
    opcodes = [x.opcode for x in body if x.opcode not in _FREE]
    return len(opcodes) if set(opcodes) == {"copy"} else 0
