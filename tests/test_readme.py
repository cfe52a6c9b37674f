"""The README's code runs as it stands, and its table of memory is true."""

import pathlib
import re
import shutil

import jax
import jax.numpy as jnp
import optax
import pytest

import optax_ftml

FILES = pathlib.Path(__file__).parent / "data" / "mxnet_files"
README = (pathlib.Path(__file__).parents[1] / "README.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
MEMORY = re.findall(
    r"^\| (.+?) \| [\w, ]+ \| (\d+) \| (\d+)", README, re.MULTILINE
)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block[:40])
def test_code_runs(block, tmp_path, monkeypatch):
    # The files of an MXNet job that one of the blocks reads.
    shutil.copy(FILES / "2_plain_100.params", tmp_path / "net.params")
    shutil.copy(FILES / "2_plain_100_trainer.states", tmp_path / "net.states")
    monkeypatch.chdir(tmp_path)
    namespace = {"jax": jax, "jnp": jnp, "optax": optax}
    namespace["optax_ftml"] = optax_ftml
    exec(compile(block, "README.md", "exec"), namespace)


def test_first_example_learns():
    namespace = {}
    exec(BLOCKS[0], namespace)
    params = namespace["params"]
    assert jnp.allclose(params["w"], jnp.arange(3.0), atol=0.05)
    assert jnp.allclose(params["b"], 1, atol=0.05)


OPTIMIZERS = {
    "`optax_ftml.ftml`, delta form": optax_ftml.ftml(),
    "`optax_ftml.ftml`, leader form": optax_ftml.ftml(
        prox=optax_ftml.prox.non_negative()
    ),
    "`ftml(accumulator_dtype=jnp.bfloat16)`": optax_ftml.ftml(
        accumulator_dtype=jnp.bfloat16
    ),
    "`optax.rmsprop`": optax.rmsprop(0.1),
    "`optax.adam`, `optax.adamw`": optax.adamw(0.1),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_memory(name):
    (row,) = [row for row in MEMORY if row[0] == name]
    for dtype, expected in zip(
        (jnp.float32, jnp.bfloat16), row[1:], strict=True
    ):
        params = jnp.ones(1000, dtype)
        state = OPTIMIZERS[name].init(params)
        nbytes = sum(x.nbytes for x in jax.tree.leaves(state))
        assert nbytes // 1000 == int(expected)
