"""The README's and the site's code runs as it stands, and what they list is so.

A page's blocks of Python share one namespace, in their order, as they do for
who follows it. The page for those who come from MXNet has its test in
tests/mxnet/test_guide.py, because its first script needs MXNet.
"""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_ftml

ROOT = pathlib.Path(__file__).parents[2]
DOCS = ROOT / "docs"
README = (ROOT / "README.md").read_text()
SLOW = ("several_sets", "smaller_networks", "structure", "why_the_metric")


def code(path):
    return re.findall(r"(?ms)^```python\n(.*?)^```", path.read_text())


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(
            path,
            id=path.stem,
            marks=pytest.mark.slow if path.stem in SLOW else (),
        )
        for path in [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
        if code(path) and path.stem != "coming_from_mxnet"
    ],
)
def test_code_runs(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {}
    for i, block in enumerate(code(path)):
        exec(compile(block, path.name, "exec"), namespace)
        if path.name == "README.md" and i == 0:  # It learns.
            params = namespace["params"]
            np.testing.assert_allclose(params["w"], [0, 1, 2], atol=0.05)
            np.testing.assert_allclose(params["b"], 1, atol=0.05)


def test_readme_is_a_page_with_a_command_that_trains_and_one_that_tests():
    assert len(README.splitlines()) <= 150
    main, tests = re.findall(r"(?m)^python3 -m venv .*", README)
    assert main.endswith(" .venv/bin/python examples/digits.py")
    assert tests.endswith(" .venv-test/bin/python -m pytest -n auto")
    # Where the package is published there are no files beside it.
    targets = re.findall(r"(?m)\]\(([^)]*)\)|^\[[^\]]+\]: (\S+)", README)
    assert targets
    assert all("".join(x).startswith("https://") for x in targets)


def test_pages_list_all_there_is():
    reference = "".join(path.read_text() for path in DOCS.glob("api/*.md"))
    for module in (optax_ftml, optax_ftml.prox, optax_ftml.mxnet):
        for name in set(module.__all__) - {"prox", "mxnet"}:
            assert f":: {module.__name__}.{name}\n" in reference
    constraints = (DOCS / "constraints.md").read_text()
    for name in optax_ftml.prox.__all__:
        assert f"`prox.{name}(" in constraints
    gallery = (DOCS / "gallery.md").read_text()
    for path in [*ROOT.glob("notebooks/*.ipynb"), *ROOT.glob("examples/*.py")]:
        name = path.relative_to(ROOT).as_posix()
        link = rf"!\[.+\]\(.+\)\]\(\S*{name}\)|```\n\n.*{name}\)"
        assert re.search(link, gallery), name


NON_NEGATIVE = optax_ftml.prox.non_negative()
OPTIMIZERS = {
    "`optax_ftml.ftml`, delta form": optax_ftml.ftml(),
    "`optax_ftml.ftml`, leader form": optax_ftml.ftml(prox=NON_NEGATIVE),
    "`optax_ftml.ftml`, leader form, `b1=0`": optax_ftml.ftml(
        b1=0, prox=NON_NEGATIVE
    ),
    "`optax_ftml.ftml`, `v` in bfloat16": optax_ftml.ftml(
        accumulator_dtype=jnp.bfloat16
    ),
    "`optax.rmsprop`": optax.rmsprop(0.1),
    "`optax.adam`, `optax.adamw`": optax.adamw(0.1),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_memory(name):
    page = (DOCS / "low_precision.md").read_text()
    (row,) = re.findall(
        rf"(?m)^\| {re.escape(name)} \| [\w, ]+ \| (\d+) \| (\d+)", page
    )
    for dtype, expected in zip((jnp.float32, jnp.bfloat16), row, strict=True):
        params = jax.ShapeDtypeStruct((1000,), dtype)
        state = jax.eval_shape(OPTIMIZERS[name].init, params)
        nbytes = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
        assert nbytes // 1000 == int(expected)
