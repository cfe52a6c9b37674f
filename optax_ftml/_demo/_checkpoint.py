"""Checkpoints of the demo: all or nothing, and checked when they are read.

A file is a SHA-256 and the msgpack that it is of, written under another name,
flushed to the disk and only then renamed. Not Orbax's, which are as atomic but
restore an array with a flipped bit without a word.
"""

import hashlib
import json
import os
import pathlib
import sys
from typing import Any

import jax
import numpy as np
from flax import serialization

_KEPT = 2  # The last one may be damaged.


def save(
    directory: pathlib.Path, epoch: int, tree: Any, record: dict[str, Any]
) -> None:
    """Writes a checkpoint and removes those before the last one.

    Args:
        directory: Is made if it is not there.
        epoch: How many have been trained.
        tree: Arrays of any dtype.
        record: What else to remember, as JSON has it.
    """
    content = serialization.msgpack_serialize(
        {
            "record": json.dumps(record),
            "leaves": [np.asarray(x) for x in jax.tree.leaves(tree)],
        }
    )
    directory.mkdir(parents=True, exist_ok=True)
    partial = directory / "partial"
    with partial.open("wb") as file:
        file.write(hashlib.sha256(content).digest() + content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(directory / f"{epoch:06d}.msgpack")
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    for old in saved(directory)[:-_KEPT]:
        old.unlink()


def saved(directory: pathlib.Path) -> list[pathlib.Path]:
    """Returns the checkpoints, the last one at the end."""
    return sorted(directory.glob("*.msgpack"))


def restore(
    directory: pathlib.Path, like: Any
) -> tuple[int, Any, dict[str, Any]] | None:
    """Reads the last checkpoint that is whole, and names those that are not.

    Args:
        directory: Where `save` has put them, or nothing at all.
        like: A tree with the structure, shapes and dtypes of the one saved.

    Returns:
        The epoch, the tree and the record; None if there is no whole one.

    Raises:
        ValueError: A whole one of other arrays.
    """
    for path in reversed(saved(directory)):
        data = path.read_bytes()
        if hashlib.sha256(data[32:]).digest() != data[:32]:
            print(f"{path} is damaged, and left out.", file=sys.stderr)
            continue
        content = serialization.msgpack_restore(data[32:])
        expected, structure = jax.tree.flatten(like)
        kinds, expected_kinds = (
            [f"{x.dtype}{list(x.shape)}" for x in leaves]
            for leaves in (content["leaves"], expected)
        )
        if kinds != expected_kinds:
            raise ValueError(
                f"{path} must hold {', '.join(expected_kinds)}; got "
                f"{', '.join(kinds)}."
            )
        tree = jax.tree.unflatten(structure, content["leaves"])
        return int(path.stem), tree, json.loads(content["record"])
    return None
