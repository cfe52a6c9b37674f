"""The command `python -m optax_ftml report`."""

import math

import pytest

from optax_ftml import __main__
from optax_ftml._report import _models


@pytest.mark.parametrize(
    ("model", "leaves", "size"),
    [
        ("mlp", 6, 669_706),
        ("resnet50", 161, 25_557_032),
        ("gpt2", 148, 124_439_808),
        ("llama3-70b", 12, 70_553_706_496),
        ("llama3-70b-layers", 723, 70_553_706_496),
    ],
)
def test_models_have_their_published_sizes(model, leaves, size):
    shapes = _models.SHAPES[model]
    assert (len(shapes), sum(map(math.prod, shapes))) == (leaves, size)


@pytest.mark.parametrize(
    "optimizer", ["sgd", "chain(clip(1.0), ftml(prox=prox.box(-1.0, 1.0)))"]
)
def test_prints_the_table_of_any_optimizer(optimizer, capsys):
    arguments = ["report", "--params", "mlp", "--optimizer", optimizer]
    assert __main__.main(arguments) == 0
    assert "669,706 in 6 leaves" in capsys.readouterr().out


@pytest.mark.parametrize("optimizer", ["adamant", "adam(", "prox", "adam()"])
def test_says_what_is_wrong_with_an_optimizer(optimizer, capsys):
    arguments = ["report", "--params", "mlp", "--optimizer", optimizer]
    assert __main__.main(arguments) == 1
    assert f"got {optimizer}:" in capsys.readouterr().out
