"""The scripts of the migration guide do what it says."""

import pathlib
import re
import shutil

import jax
import numpy as np

from optax_ftml import mxnet

ROOT = pathlib.Path(__file__).parents[2]
FILES = ROOT / "tests" / "data" / "mxnet_files"


def guide_scripts():
    """Returns the guide's blocks of Python, MXNet's first."""
    text = (ROOT / "docs" / "coming_from_mxnet.md").read_text()
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def test_guide(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(FILES / "2_plain_100.params", "net.params")
    shutil.copy(FILES / "2_plain_100_trainer.states", "net.states")
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
