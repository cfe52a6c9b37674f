"""The scripts of the migration guide do what it says."""

import inspect
import pathlib
import re
import shutil

import jax
import numpy as np

from optax_ftml import mxnet

ROOT = pathlib.Path(__file__).parents[2]
FILES = ROOT / "tests" / "data" / "mxnet_files"
GUIDE = ROOT / "docs" / "coming_from_mxnet.md"


def guide_scripts():
    """Returns the guide's blocks of Python, MXNet's first."""
    text = GUIDE.read_text()
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def test_guide(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for end in ("params", "states"):
        name = "100_trainer" if end == "states" else "100"
        shutil.copy(FILES / f"2_plain_{name}.{end}", f"net.{end}")
    of_mxnet, of_jax, transposed = guide_scripts()
    assert "import mxnet" in of_mxnet
    names: dict = {}
    # A GPU's default is TensorFloat-32, which MXNet did not have.
    with jax.default_matmul_precision("highest"):
        exec(of_jax, names)
    expected = mxnet.load_params(FILES / "2_plain_200.params")
    saved = mxnet.load_params("net.params")
    for name, p in expected.items():
        np.testing.assert_allclose(saved[name], p, atol=2e-5)
    assert mxnet.load_states("net.states").num_update == 200
    # From the files that the first script has written.
    exec(transposed, names)
    v = names["state"][3][0].v["hidden"]["kernel"]
    np.testing.assert_allclose(v.T, names["states"].slots[1].v, rtol=1e-6)


def test_page_of_arguments_lists_them_all():
    text = (GUIDE.parent / "api" / "mxnet.md").read_text()
    for name in inspect.signature(mxnet.ftml).parameters:
        assert f"`{name}" in text
