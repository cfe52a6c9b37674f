"""The examples do what they say, in a fast mode."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from examples import digits, mxnet_job, portfolio, sparse_network
from optax_ftml import mxnet

PNG = b"\x89PNG"


class Linear(nnx.Linear):
    """In place of the convolutions, which take long to compile."""

    def __init__(self, rngs):
        super().__init__(64, 10, rngs=rngs)

    def __call__(self, x):
        return super().__call__(x.reshape(len(x), 64))


def test_digits_prints_a_table_and_draws_the_losses_and_goes_on(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(digits, "BATCH_SIZE", 512)
    monkeypatch.setattr(digits, "Network", Linear)
    plot = tmp_path / "digits.png"
    options = ["--plot", str(plot), "--checkpoint", str(tmp_path)]
    digits.main(["--epochs", "2", *options])
    printed = capsys.readouterr()
    rows = re.findall(r"^(\w+) +[\d.]+% .* ([48]).0\d ", printed.out, re.M)
    assert rows == [("ftml", "4"), ("adam", "8"), ("rmsprop", "4")]
    assert "4/4" in printed.err  # The progress bar.
    assert plot.read_bytes().startswith(PNG)

    data = digits.load_digits()
    resumed, _ = digits.train("ftml", data, 3, tmp_path)
    straight, _ = digits.train("ftml", data, 3)
    for epoch, expected in zip(resumed, straight, strict=True):
        assert epoch | {"ms": 0} == expected | {"ms": 0}


def test_portfolio_ends_at_the_optimum(tmp_path, capsys, monkeypatch):
    path, multipliers = portfolio.train(2000)
    weights = path[-1]
    np.testing.assert_allclose(jnp.sum(path, axis=1), 1, rtol=1e-5)
    assert (path >= 0).all()
    # At the optimum no asset has a larger gain at the margin than those held.
    gain = -jax.grad(portfolio.loss)(weights, *portfolio.market())
    held = weights > 0
    np.testing.assert_allclose(gain[held], jnp.max(gain), atol=1e-5)
    np.testing.assert_allclose(multipliers, gain, atol=1e-5)

    monkeypatch.setattr(portfolio, "train", lambda steps: (path, multipliers))
    plot = tmp_path / "portfolio.png"
    portfolio.main(["--plot", str(plot)])
    assert len(re.findall(r"%", capsys.readouterr().out)) == 14
    assert plot.read_bytes().startswith(PNG)


@pytest.mark.slow
def test_sparse_network_turns_units_off_as_a_whole(capsys):
    """Where the smaller network computes something else, it raises."""
    sparse_network.main(["--epochs", "20", "--strengths", "0", "0.03"])
    table = re.findall(
        r"^ +(\S+) +(\d+) +([\d,]+) ", capsys.readouterr().out, re.M
    )
    (none, all_units, _), (strength, units, size) = table
    assert (none, all_units, strength) == ("0", "128", "0.03")
    assert 0 < int(units) < 128
    # A unit has 64 weights into it, a bias, and 10 weights out of it.
    assert int(size.replace(",", "")) == 75 * int(units) + 10


def test_mxnet_job_ends_where_mxnet_ended(tmp_path, capsys):
    name = str(tmp_path / "job")
    # A GPU's default is TensorFloat-32, which MXNet did not have.
    with jax.default_matmul_precision("highest"):
        mxnet_job.main(["--save", name])
    error = re.search(r"At most (\S+) from", capsys.readouterr().out)
    assert float(error[1]) < 2e-5
    assert mxnet.load_states(f"{name}.states").num_update == 200
    params = mxnet.load_params(f"{name}.params")
    assert set(params) == {"0.bias", "0.weight", "1.bias", "1.weight"}
