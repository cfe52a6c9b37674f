"""MXNet's FTML by its own arguments."""

import inspect
import json
import pathlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from optax_ftml import mxnet
from tests.programs import mxnet_settings

DATA = pathlib.Path(__file__).parents[1] / "data"


def _recorded(run):
    with np.load(DATA / f"mxnet_{run}.npz") as recorded:
        arrays = dict(recorded)
    return json.loads(str(arrays.pop("settings"))), arrays


SETTINGS, _ = _recorded("settings_1.9.1")
RECORDED = {
    run: _recorded(f"settings_{run}")[1] for run in ("1.9.1", "fused", "step")
}


def test_the_sample_covers_what_there_is():
    assert len(SETTINGS) >= 40
    assert {s["order"] for s in SETTINGS} == {"1.x", "2.x"}
    assert {s["dtype"] for s in SETTINGS} == {"float16", "float32", "float64"}
    schedulers = {s["scheduler"][0] for s in SETTINGS if s["scheduler"]}
    assert len(schedulers) == 4
    for option in ("learning_rate", "clip_gradient"):
        assert None in {s["options"][option] for s in SETTINGS}
    assert {0, -1.0} < {s["options"]["clip_gradient"] for s in SETTINGS}


@pytest.mark.parametrize("number", range(len(SETTINGS)))
def test_agrees_with_mxnet(number):
    setting = SETTINGS[number]
    optimizer = mxnet_settings.optimizer_of(setting)
    ours = mxnet_settings.trajectory(setting, optimizer)
    for run in mxnet_settings.runs_of(setting):
        for name, values in ours.items():
            theirs = RECORDED[run][f"{number}/{name}"]
            assert values.dtype == theirs.dtype == setting["dtype"]
            assert mxnet_settings.excess(setting, run, values, theirs) <= 1


def _assert_moves(optimizer, steps):
    """With gradients of 1 and beta1 = 0.6 the steps are the learning rates."""
    params = jnp.zeros(())
    state = optimizer.init(params)
    for i, step in enumerate(steps, start=1):
        updates, state = optimizer.update(jnp.ones(()), state, params)
        np.testing.assert_allclose(
            updates, -step * 0.4 / (1 - 0.6**i), rtol=1e-5
        )


def test_learning_rate_is_mxnets():
    base = mxnet.FactorScheduler(1, 0.5, base_lr=0.8)
    for options, steps in [
        ({}, [0.0025, 0.0025]),
        ({"learning_rate": 0.3}, [0.3, 0.3]),
        ({"learning_rate": None}, [0.01, 0.01]),
        ({"learning_rate": None, "lr_scheduler": base}, [0.8, 0.4]),
        ({"learning_rate": 0.2, "lr_scheduler": base}, [0.2, 0.1]),
        # The default is a learning rate too.
        ({"lr_scheduler": base}, [0.0025, 0.00125]),
        (
            {"learning_rate": None, "lr_scheduler": lambda count: 0.5 + count},
            [0.5, 1.5],
        ),
    ]:
        _assert_moves(mxnet.ftml(**options), steps)
    poly = mxnet.PolyScheduler(4, base_lr=1.0, pwr=1)
    _assert_moves(mxnet.ftml(0.1, lr_scheduler=poly), [0.75, 0.5])


def test_begin_num_update_counts_for_everything():
    scheduler = mxnet.FactorScheduler(5, 0.5, base_lr=1.0)
    optimizer = mxnet.ftml(
        None, lr_scheduler=scheduler, beta1=0.0, begin_num_update=5
    )
    params = {"count": jnp.zeros(())}
    state = optimizer.init(params)
    counts = optax.tree_utils.tree_get_all_with_path(
        state, "count", lambda _, value: value.dtype == jnp.int32
    )
    assert [int(count) for _, count in counts] == [5, 5]
    updates, _ = optimizer.update({"count": jnp.ones(())}, state, params)
    # The sixth update's, with the first gradient that v has seen.
    np.testing.assert_allclose(
        updates["count"], -0.5 * np.sqrt((1 - 0.999**6) / 0.001), rtol=1e-5
    )


def _updates(params, **options):
    optimizer = mxnet.ftml(0.1, beta2=0.0, **options)
    state = optimizer.init(params)
    return jax.jit(optimizer.update)(
        jax.tree.map(jnp.ones_like, params), state, params
    )[0]


def test_multipliers_are_by_path_or_pattern():
    params = {
        "conv": {"kernel": jnp.ones(2), "bias": jnp.ones(1)},
        "layers": [{"kernel": jnp.ones(2)}, {"kernel": jnp.ones(2)}],
    }
    updates = _updates(
        params,
        lr_mult={"*/kernel": 2.0, "layers/1/kernel": 3.0, "layers/*": 5.0},
    )
    expected = {
        "conv": {"kernel": -0.2, "bias": -0.1},
        "layers": [{"kernel": -0.2}, {"kernel": -0.3}],
    }
    jax.tree.map(
        lambda u, e: np.testing.assert_allclose(u, e, rtol=1e-5),
        updates,
        jax.tree.map(lambda e, p: jnp.full_like(p, e), expected, params),
    )
    # With a gradient of 1 + wd the step is the sign of the sum, 0.1, again,
    # but for what is clipped to 0 together with its decay.
    updates = _updates(
        params, wd=-1.0, wd_mult={"conv/*": 0.0, "layers/0/kernel": 2.0}
    )
    jax.tree.map(
        lambda u, e: np.testing.assert_allclose(u, e, rtol=1e-5),
        updates,
        {
            "conv": {"kernel": -0.1 * np.ones(2), "bias": -0.1 * np.ones(1)},
            "layers": [
                {"kernel": 0.1 * np.ones(2)},
                {"kernel": np.zeros(2)},
            ],
        },
    )


def test_flax_nnx_paths_are_spelled_one_way():
    """In `init` NNX wraps the parameters, so that paths end in "/value"."""

    def run(**options):
        model = nnx.Sequential(nnx.Linear(1, 1, rngs=nnx.Rngs(0)))
        optimizer = nnx.Optimizer(
            model, mxnet.ftml(0.1, beta2=0.0, wd=1.0, **options), wrt=nnx.Param
        )
        before = nnx.to_pure_dict(nnx.state(model))
        grads = jax.tree.map(jnp.zeros_like, nnx.state(model, nnx.Param))
        grads["layers"][0]["bias"] = nnx.Param(jnp.ones(1))
        optimizer.update(model, grads)
        after = nnx.to_pure_dict(nnx.state(model))
        moves = jax.tree.map(jnp.subtract, after, before)["layers"][0]
        return {name: abs(x.item()) for name, x in moves.items()}

    def close(**expected):
        return pytest.approx({"kernel": 0.1, "bias": 0.1} | expected, rel=1e-5)

    assert run() == close()
    for key in ("layers/0/bias", "*bias"):
        assert run(lr_mult={key: 3.0}) == close(bias=0.3)
        assert run(lr_mult={key: 0.0}) == close(bias=0.0)
    for key in ("layers/0/kernel", "*kernel"):
        assert run(wd_mult={key: 0.0}) == close(kernel=0.0)
    with pytest.raises(ValueError, match="parameters are layers/0/bias, "):
        run(lr_mult={"layers/1/bias": 0.0})


def test_a_multiplier_of_zero_freezes():
    params = {"a": jnp.ones(2), "b": jnp.ones(2)}
    updates = _updates(params, lr_mult={"a": 0.0})
    np.testing.assert_array_equal(updates["a"], 0)
    assert np.all(updates["b"] < 0)


def test_updates_need_params_only_for_decay():
    optimizer = mxnet.ftml(clip_gradient=1.0, lr_mult={"a": 2.0})
    params = {"a": jnp.ones(2, jnp.bfloat16)}
    updates, _ = optimizer.update(params, optimizer.init(params))
    assert updates["a"].dtype == jnp.bfloat16


def test_numbers_can_be_injected():
    optimizer = optax.inject_hyperparams(mxnet.ftml)(
        learning_rate=0.1, wd=0.5, clip_gradient=1.0, beta2=0.0
    )
    update = jax.jit(optimizer.update)
    params = {"a": jnp.ones(2)}
    state = optimizer.init(params)
    for lr in (0.1, 0.0, 0.2):  # as trainer.set_learning_rate does
        state.hyperparams["learning_rate"] = jnp.asarray(lr)
        updates, state = update(params, state, params)
        count = optax.tree_utils.tree_get(state.inner_state, "count")
        np.testing.assert_allclose(
            updates["a"], -lr * 0.4 / (1 - 0.6**count), rtol=1e-5
        )
    assert update._cache_size() == 1


@pytest.mark.parametrize("order", ["1.x", "2.x"])
@pytest.mark.parametrize(
    "dtype", [jnp.float32, jnp.bfloat16, jnp.float16, jnp.float64]
)
def test_clip_gradient_clips_only_above_zero(x64, order, dtype):
    grads = {"a": jnp.array([-3.0, 0.25, 900.0], dtype)}

    def updates(make, bound):
        # With this epsilon a step is proportional to the gradient.
        optimizer = make(
            epsilon=1e3, beta2=0.5, clip_gradient=bound, order=order
        )
        state = optimizer.init(grads)
        return jax.jit(optimizer.update)(grads, state, grads)[0]["a"]

    others = set(inspect.signature(mxnet.ftml).parameters)
    injected = optax.inject_hyperparams(
        mxnet.ftml, static_args=others - {"clip_gradient"}
    )
    unclipped, clipped = (updates(mxnet.ftml, b) for b in (None, 0.5))
    assert unclipped[2] < 8 * clipped[2] < 0
    assert unclipped.dtype == clipped.dtype == dtype
    assert clipped[2] == -clipped[0]
    for make, expected, bounds in [
        (mxnet.ftml, unclipped, (0, -1.0, np.array(-1.0), np.float32(0))),
        (mxnet.ftml, clipped, (np.array(0.5), np.float32(0.5))),
        (injected, unclipped, (0.0, -1)),
        (injected, clipped, (0.5,)),
    ]:
        for bound in bounds:
            ours = updates(make, bound)
            assert ours.dtype == dtype
            np.testing.assert_allclose(
                *np.asarray([ours, expected], float), rtol=1e-6
            )


@pytest.mark.parametrize("kind", ["array", "injected"])
def test_zero_dimensional_arrays_are_numbers(kind):
    numbers = {"wd": 0.5, "rescale_grad": 2.0, "clip_gradient": 0.7}
    params = {"a": jnp.ones(2)}

    def updates(make, **options):
        optimizer = make(beta2=0.5, begin_num_update=np.int64(3), **options)
        return optimizer.update(params, optimizer.init(params), params)[0]

    make = optax.inject_hyperparams(mxnet.ftml, static_args="begin_num_update")
    chex.assert_trees_all_close(
        updates(
            make if kind == "injected" else mxnet.ftml,
            **{name: np.array(value) for name, value in numbers.items()},
        ),
        updates(mxnet.ftml, **numbers),
        rtol=1e-6,
    )


@pytest.mark.parametrize(
    ("error", "match", "arguments"),
    [
        (TypeError, "'use_fused_step'.*leave it out", {"use_fused_step": True}),
        (TypeError, "'aggregate_num'.*leave it out", {"aggregate_num": 4}),
        (TypeError, "'param_idx2name'.*paths", {"param_idx2name": {}}),
        (TypeError, "'sym'.*wd_mult by path", {"sym": None}),
        (TypeError, "'param_dict'.*by path", {"param_dict": {}}),
        (TypeError, "'beta_1'.*'beta1'", {"beta_1": 0.9}),
        (TypeError, "lr_scheduler", {"learning_rate": lambda count: 0.1}),
        (TypeError, "lr_scheduler", {"lr_scheduler": 0.1}),
        (ValueError, "None .*lr_scheduler", {"lr_scheduler": lambda c: 0.1}),
        (ValueError, "learning_rate .*-1", {"learning_rate": -1.0}),
        (ValueError, r"beta1 .*\[0, 1\).*1", {"beta1": 1.0}),
        (ValueError, "beta2 .*nan", {"beta2": np.nan}),
        (ValueError, "epsilon .*-1", {"epsilon": -1.0}),
        (ValueError, "order .*'3.x'", {"order": "3.x"}),
        (ValueError, "begin_num_update .*-1", {"begin_num_update": -1}),
        (ValueError, "begin_num_update .*0.5", {"begin_num_update": 0.5}),
        (TypeError, "rescale_grad .*'1'", {"rescale_grad": "1"}),
        (TypeError, "clip_gradient .*'1'", {"clip_gradient": "1"}),
        (ValueError, "clip_gradient .*nan", {"clip_gradient": np.nan}),
        (ValueError, "wd .*inf", {"wd": np.inf}),
    ],
)
def test_arguments_are_checked(error, match, arguments):
    with pytest.raises(error, match=match):
        mxnet.ftml(**arguments)


@pytest.mark.parametrize("name", ["lr_mult", "wd_mult"])
def test_multipliers_are_checked(name):
    params = {"dense": {"kernel": jnp.ones(2)}}
    optimizer = mxnet.ftml(**{"wd": 0.1, name: {"dense/bias": 2.0}})
    match = f"{name} .*'dense/bias'.*dense/kernel"
    with pytest.raises(ValueError, match=match):
        optimizer.init(params)
    with pytest.raises(ValueError, match=match):
        mxnet.ftml(**{name: {"dense/bias": 2.0}}).init(params)
    for error, match, mult in [
        (TypeError, f"{name} .*paths.*7", {7: 2.0}),
        (TypeError, rf"{name}\['dense/\*'\] .*'2'", {"dense/*": "2"}),
        (ValueError, rf"{name}\['dense/\*'\] .*inf", {"dense/*": np.inf}),
    ]:
        with pytest.raises(error, match=match):
            mxnet.ftml(**{"wd": 0.1, name: mult}).init(params)


def test_decay_asks_for_params():
    params = {"dense": jnp.ones(2)}
    for wd_mult in (None, {"dense": 2.0}):
        optimizer = mxnet.ftml(wd=0.1, wd_mult=wd_mult)
        with pytest.raises(ValueError, match="params"):
            optimizer.update(params, optimizer.init(params))
