"""The demo's checkpoints: exact, all or nothing, never a damaged one."""

import chex
import jax.numpy as jnp
import numpy as np
import pytest

from optax_ftml import __main__
from optax_ftml._demo import _checkpoint
from tests.programs import kill

TREE = {
    "w": jnp.linspace(-1, 1, 64, dtype=jnp.bfloat16).reshape(8, 8),
    "v": [jnp.float32([1e-30, jnp.inf, jnp.nan]), jnp.int32(7)],
}


def _saved(directory, *epochs):
    for epoch in epochs:
        tree = {**TREE, "w": TREE["w"] + epoch}
        _checkpoint.save(directory, epoch, tree, {"loss": [epoch / 3]})
    return directory


def test_comes_back_as_it_was(tmp_path):
    _saved(tmp_path / "new", 1, 2, 3)
    epoch, tree, record = _checkpoint.restore(tmp_path / "new", TREE)
    assert epoch == 3
    assert record == {"loss": [1.0]}
    chex.assert_trees_all_equal_shapes_and_dtypes(tree, TREE)
    chex.assert_trees_all_equal(tree, {**TREE, "w": TREE["w"] + 3})
    assert len(list((tmp_path / "new").iterdir())) == 2


def _truncate(data):
    return data[: len(data) // 2]


def _flip_a_bit(data):
    flipped = bytearray(data)
    flipped[len(data) // 3] ^= 1
    return bytes(flipped)


@pytest.mark.parametrize(
    "damage", [_truncate, _flip_a_bit, lambda _: b"", lambda data: data + b"0"]
)
def test_a_damaged_one_is_left_out_with_a_message(damage, tmp_path, capsys):
    _saved(tmp_path, 1, 2)
    path = tmp_path / "000002.msgpack"
    path.write_bytes(damage(path.read_bytes()))
    epoch, tree, _ = _checkpoint.restore(tmp_path, TREE)
    assert epoch == 1
    chex.assert_trees_all_equal(tree["w"], TREE["w"] + 1)
    assert f"{path} is damaged" in capsys.readouterr().err
    path = tmp_path / "000001.msgpack"
    path.write_bytes(damage(path.read_bytes()))
    assert _checkpoint.restore(tmp_path, TREE) is None


def test_every_bit_counts(tmp_path):
    _saved(tmp_path, 1)
    path = tmp_path / "000001.msgpack"
    data = path.read_bytes()
    for position in range(len(data)):
        flipped = bytearray(data)
        flipped[position] ^= 1 << position % 8
        path.write_bytes(flipped)
        assert _checkpoint.restore(tmp_path, TREE) is None


def test_a_half_written_one_is_not_seen(tmp_path):
    _saved(tmp_path, 1)
    (tmp_path / "partial").write_bytes(b"half of it")
    assert _checkpoint.restore(tmp_path, TREE)[0] == 1
    _saved(tmp_path, 2)
    assert _checkpoint.restore(tmp_path, TREE)[0] == 2


def test_other_arrays_are_an_error(tmp_path):
    _saved(tmp_path, 1)
    like = {**TREE, "w": jnp.zeros((8, 8))}
    with pytest.raises(ValueError, match=r"must hold .*float32\[8, 8\]"):
        _checkpoint.restore(tmp_path, like)


def _demo(tmp_path, directory, epochs, *arguments):
    arguments = [
        *("demo", "--optimizers", "ftml", "--epochs", epochs),
        *("--output-dir", tmp_path, "--checkpoint", tmp_path / directory),
        *arguments,
    ]
    assert __main__.main(list(map(str, arguments))) == 0
    return tmp_path / directory / "ftml"


def _content(path):
    return _checkpoint.serialization.msgpack_restore(path.read_bytes()[32:])


def test_demo_resumes_to_the_same_end_to_the_bit(tmp_path, capsys):
    straight = _demo(tmp_path, "straight", 3)
    resumed = _demo(tmp_path, "resumed", 1, "--resume")  # Nothing to resume.
    _demo(tmp_path, "resumed", 2, "--resume")
    # The last is damaged: the one before it is as good.
    path = resumed / "000002.msgpack"
    path.write_bytes(_flip_a_bit(path.read_bytes()))
    capsys.readouterr()
    _demo(tmp_path, "resumed", 3, "--resume")
    printed = capsys.readouterr()
    assert f"{path} is damaged" in printed.err
    assert "going on from epoch 1" in printed.out
    ends = [_content(d / "000003.msgpack") for d in (straight, resumed)]
    assert len(ends[0]["leaves"]) == 6 + 1 + 6
    for a, b in zip(*(end["leaves"] for end in ends), strict=True):
        np.testing.assert_array_equal(a, b)
    curves = [_checkpoint.json.loads(end["record"])["curves"] for end in ends]
    assert curves[0] == curves[1]
    with pytest.raises(SystemExit, match="add --resume"):
        _demo(tmp_path, "resumed", 3)
    with pytest.raises(SystemExit, match="must be the same"):
        _demo(tmp_path, "resumed", 3, "--resume", "--batch-size", 16)


def test_resume_needs_a_directory():
    with pytest.raises(SystemExit, match="--resume needs --checkpoint"):
        __main__.main(["demo", "--resume"])


def test_killed_runs_end_where_an_undisturbed_run_ends(tmp_path):
    outcome = kill.run(tmp_path, kills=4, seed=0)
    assert outcome.kills == 4
    assert outcome.during_saves >= 1
    assert outcome.end == outcome.undisturbed_end
