"""The site's code runs as it stands, and its table of memory is true.

A page's blocks of Python share one namespace, in their order, as they do for
who follows it. The page for those who come from MXNet has its test in
tests/mxnet/test_guide.py, because its first script needs MXNet.
"""

import pathlib
import re

import jax
import jax.numpy as jnp
import optax
import pytest

import optax_ftml

ROOT = pathlib.Path(__file__).parents[2]
DOCS = ROOT / "docs"
BLOCKS = {
    path.stem: re.findall(
        r"^```python\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE
    )
    for path in sorted(DOCS.glob("*.md"))
}
SLOW = ("several_sets", "smaller_networks")
PAGES = [
    pytest.param(page, marks=pytest.mark.slow if page in SLOW else ())
    for page in BLOCKS
    if BLOCKS[page] and page != "coming_from_mxnet"
]


@pytest.mark.parametrize("page", PAGES)
def test_code_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {}
    for block in BLOCKS[page]:
        exec(compile(block, f"{page}.md", "exec"), namespace)


@pytest.mark.parametrize(
    "module", [optax_ftml, optax_ftml.prox, optax_ftml.mxnet]
)
def test_reference_has_every_public_name(module):
    pages = "".join(page.read_text() for page in (DOCS / "api").glob("*.md"))
    for name in set(module.__all__) - {"prox", "mxnet"}:
        assert f":: {module.__name__}.{name}\n" in pages


def test_page_on_constraints_has_every_prox():
    page = (DOCS / "constraints.md").read_text()
    assert all(f"`prox.{name}(" in page for name in optax_ftml.prox.__all__)


def test_gallery_has_every_notebook_and_example():
    page = (DOCS / "gallery.md").read_text()
    for path in [*ROOT.glob("notebooks/*.ipynb"), *ROOT.glob("examples/*.py")]:
        name = path.relative_to(ROOT).as_posix()
        link = rf"!\[.+\]\(.+\)\]\(\S*{name}\)|```\n\n.*{name}\)"
        assert re.search(link, page), name


OPTIMIZERS = {
    "`optax_ftml.ftml`, delta form": optax_ftml.ftml(),
    "`optax_ftml.ftml`, leader form": optax_ftml.ftml(
        prox=optax_ftml.prox.non_negative()
    ),
    "`optax_ftml.ftml`, leader form, `b1=0`": optax_ftml.ftml(
        b1=0, prox=optax_ftml.prox.non_negative()
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
        rf"^\| {re.escape(name)} \| [\w, ]+ \| (\d+) \| (\d+)", page, re.M
    )
    for dtype, expected in zip((jnp.float32, jnp.bfloat16), row, strict=True):
        params = jnp.ones(1000, dtype)
        state = OPTIMIZERS[name].init(params)
        nbytes = sum(x.nbytes for x in jax.tree.leaves(state))
        assert nbytes // 1000 == int(expected)
