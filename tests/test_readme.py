"""The README's code runs as it stands, and it stays a page."""

import pathlib
import re

import jax
import jax.numpy as jnp
import optax
import pytest

import optax_ftml

README = (pathlib.Path(__file__).parents[1] / "README.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block[:40])
def test_code_runs(block):
    imports = {"jax": jax, "jnp": jnp, "optax": optax, "optax_ftml": optax_ftml}
    is_first = block == BLOCKS[0]
    namespace = {} if is_first else imports
    exec(compile(block, "README.md", "exec"), namespace)
    if is_first:  # It stands alone, and learns.
        params = namespace["params"]
        assert jnp.allclose(params["w"], jnp.arange(3.0), atol=0.05)
        assert jnp.allclose(params["b"], 1, atol=0.05)


def test_one_command_trains_and_one_tests():
    main, tests = re.findall(r"^python3 -m venv .*", README, re.M)
    assert main.endswith(" .venv/bin/python examples/digits.py")
    assert tests.endswith(" .venv-test/bin/python -m pytest -n auto")


def test_is_a_page():
    assert len(README.splitlines()) <= 150


def test_links_are_absolute():
    targets = re.findall(r"\]\(([^)]*)\)|^\[[^\]]+\]: (\S+)", README, re.M)
    assert targets
    for target in map("".join, targets):
        assert target.startswith("https://")
