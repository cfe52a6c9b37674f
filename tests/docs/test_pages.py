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
README = ROOT / "README.md"
BLOCKS = {
    path: re.findall(r"(?ms)^```python\n(.*?)^```", path.read_text())
    for path in [README, *sorted(DOCS.glob("*.md"))]
    if path.stem != "coming_from_mxnet"
}
SLOW = ("several_sets", "smaller_networks", "structure", "why_the_metric")
PAGES = [
    pytest.param(path, marks=pytest.mark.slow if path.stem in SLOW else ())
    for path in BLOCKS
    if BLOCKS[path]
]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_code_runs(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {}
    for i, block in enumerate(BLOCKS[path]):
        exec(compile(block, path.name, "exec"), namespace)
        if path == README and i == 0:  # It learns.
            params = namespace["params"]
            np.testing.assert_allclose(params["w"], [0, 1, 2], atol=0.05)
            np.testing.assert_allclose(params["b"], 1, atol=0.05)


def test_readme_is_a_page_that_can_be_read_anywhere():
    text = README.read_text()
    assert len(text.splitlines()) <= 150
    # Where the package is published there are no files beside it.
    targets = re.findall(r"(?m)(?:\]\(|^\[[^\]]+\]: )([^)\s]+)", text)
    assert targets
    assert all(target.startswith("https://") for target in targets)


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
        assert path.relative_to(ROOT).as_posix() in gallery


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
    "`optax.adam`, `optax.adamw`": optax.adamw(0.1),
}


def test_memory():
    page = (DOCS / "low_precision.md").read_text()
    for name, optimizer in OPTIMIZERS.items():
        (row,) = re.findall(
            rf"(?m)^\| {re.escape(name)} \| [\w, ]+ \| (\d+) \| (\d+)", page
        )
        for dtype, expected in zip(("float32", "bfloat16"), row, strict=True):
            params = jax.ShapeDtypeStruct((1000,), dtype)
            state = jax.tree.leaves(jax.eval_shape(optimizer.init, params))
            nbytes = sum(x.size * x.dtype.itemsize for x in state)
            assert nbytes // 1000 == int(expected), name
