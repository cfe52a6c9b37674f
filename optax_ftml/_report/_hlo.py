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
_COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-broadcast",
    "collective-permute",
    "ragged-all-to-all",
    "reduce-scatter",
)


class Array(NamedTuple):
    """An array that an instruction reads or writes."""

    bits: int
    size: int
    memory_space: int  # 0 is the device's main memory (HBM).

    @property
    def nbytes(self) -> int:
        """Bytes of its elements, without padding."""
        return math.ceil(self.bits * self.size / 8)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """An instruction, its result's arrays, and the names that it refers to."""

    opcode: str
    result: list[Array]
    operands: list[str]
    attributes: str

    @property
    def called(self) -> list[str]:
        """Names of the computations that it calls."""
        return re.findall(r"%([\w.\-]+)", self.attributes.split("metadata=")[0])


Computation = dict[str, Instruction]


@dataclasses.dataclass
class Counts:
    """What one device executes in one run of the program.

    A loop's body and every branch of a conditional count once. Bytes are those
    that executed instructions read from and write to main memory: each operand
    once, each result once, and, where a part of an array is moved between main
    memory and an on-chip one, that part.
    """

    kernels: int = 0
    scalar_kernels: int = 0
    fusions: int = 0
    copies: int = 0
    copied_bytes: int = 0
    transfers: int = 0
    moved_bytes: int = 0
    collectives: list[tuple[str, int]] = dataclasses.field(default_factory=list)


def count(text: str) -> Counts:
    """Counts the executed instructions of a compiled module.

    Args:
        text: The module as `Compiled.as_text()` prints it.

    Returns:
        The counts.
    """
    entry, computations = parse(text)
    counts = Counts()
    _count(entry, computations, counts)
    return counts


def parse(text: str) -> tuple[Computation, dict[str, Computation]]:
    """Returns the entry computation and all computations by name."""
    computations: dict[str, Computation] = collections.defaultdict(dict)
    entry = name = ""
    for line in text.splitlines():
        if header := re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line):
            name = header[2]
            entry = name if header[1] else entry
        elif definition := re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = ", line):
            instruction = _parse_instruction(line[definition.end() :])
            computations[name][definition[1]] = instruction
    return computations[entry], computations


def _parse_instruction(text: str) -> Instruction:
    end = _group_end(text) if text.startswith("(") else text.index(" ")
    result, call = text[:end], text[end + 1 :]
    opcode, _, _ = call.partition("(")
    call = call[len(opcode) :]
    end = _group_end(call)
    return Instruction(
        opcode=opcode,
        result=_parse_arrays(result),
        operands=re.findall(r"%([\w.\-]+)", call[:end]),
        attributes=call[end:],
    )


def _group_end(text):
    depth = 0
    for parenthesis in re.finditer(r"[()]", text):
        depth += 1 if parenthesis[0] == "(" else -1
        if depth == 0:
            return parenthesis.end()
    raise ValueError(f"unbalanced parentheses in HLO: {text}")


def _parse_arrays(shape):
    arrays = []
    pattern = r"([a-z]\w*)\[([\d,]*)\](?:\{([^}]*)\})?"
    for dtype, dims, layout in re.findall(pattern, shape):
        bits = re.search(r"\d+", dtype)
        space = re.search(r"S\((\d+)\)", layout)
        arrays.append(
            Array(
                bits=int(bits[0]) if bits else 8 * (dtype == "pred"),
                size=math.prod(int(d) for d in dims.split(",") if d),
                memory_space=int(space[1]) if space else 0,
            )
        )
    return arrays


def _count(computation, computations, counts):
    for instruction in computation.values():
        opcode = instruction.opcode
        if opcode in _CALLS:
            for name in instruction.called:
                _count(computations[name], computations, counts)
        elif not _is_free(instruction):
            _count_executed(
                instruction,
                [
                    array
                    for name in dict.fromkeys(instruction.operands)
                    for array in computation[name].result
                ],
                computations,
                counts,
            )


def _is_free(instruction):
    return (
        instruction.opcode in _FREE
        or instruction.opcode.endswith("-done")
        or "ConcatBitcast" in instruction.attributes
    )


def _count_executed(instruction, operands, computations, counts):
    opcode, result = instruction.opcode, instruction.result
    if opcode == "copy-start":
        result = result[:1]  # Then come its source and a semaphore.
    elif opcode == "slice-start":
        result = result[1:2]  # After its source.
        operands = [operands[0]._replace(size=result[0].size)]
    elif opcode.removesuffix("-start") in _COLLECTIVES:
        result = result[-1:] if opcode.endswith("-start") else result
        size = sum(array.nbytes for array in result)
        counts.collectives.append((opcode.removesuffix("-start"), size))
    counts.moved_bytes += sum(
        array.nbytes
        for array in (*operands, *result)
        if array.memory_space == 0
    )
    copies = _copies(instruction, computations)
    if all(array.size <= 1 for array in (*operands, *result)):
        counts.scalar_kernels += 1
    elif copies and operands[0].memory_space != result[0].memory_space:
        counts.transfers += 1
    else:
        counts.kernels += 1
        counts.fusions += opcode == "fusion"
        counts.copies += copies
        counts.copied_bytes += copies and sum(a.nbytes for a in result)


def _copies(instruction, computations):
    """Returns how many arrays it copies if that is all it does, else 0."""
    if instruction.opcode in ("copy", "copy-start", "slice-start"):
        return 1
    if instruction.opcode != "fusion":
        return 0
    body = computations[instruction.called[0]].values()
    opcodes = [i.opcode for i in body if i.opcode not in _FREE]
    return len(opcodes) if set(opcodes) == {"copy"} else 0
