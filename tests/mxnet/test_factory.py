"""MXNet's FTML by its own arguments."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from optax_ftml import mxnet


def test_any_schedule_goes_without_a_learning_rate():
    optimizer = mxnet.ftml(None, lr_scheduler=lambda count: 0.5 + count)
    state = optimizer.init(jnp.zeros(()))
    for i in (1, 2):
        updates, state = optimizer.update(jnp.ones(()), state)
        expected = -(i - 0.5) * 0.4 / (1 - 0.6**i)
        np.testing.assert_allclose(updates, expected, rtol=1e-5)


PARAMS = {
    "conv": {"kernel": jnp.ones(2), "bias": jnp.ones(1)},
    "layers": [{"kernel": jnp.ones(2)}, {"kernel": jnp.ones(2)}],
}
LR_MULT = {"*/kernel": 2.0, "layers/1/kernel": 3.0, "layers/*": 5.0}
WD_MULT = {"conv/*": 0.0, "layers/0/kernel": 2.0}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"lr_mult": LR_MULT | {"conv/bias": 0.0}}, [0.0, -0.2, -0.2, -0.3]),
        # The step is the sign of 1 - wd, and 0 where both cancel.
        ({"wd": -1.0, "wd_mult": WD_MULT}, [-0.1, -0.1, 0.1, 0.0]),
    ],
)
def test_multipliers_are_by_path_or_pattern(options, expected):
    optimizer = mxnet.ftml(0.1, beta2=0.0, **options)
    updates, _ = optimizer.update(PARAMS, optimizer.init(PARAMS), PARAMS)
    for update, value in zip(jax.tree.leaves(updates), expected, strict=True):
        np.testing.assert_allclose(update, value, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"lr_mult": {"layers/0/bias": 3.0}}, [0.3, 0.1]),
        ({"wd_mult": {"*kernel": 0.0}}, [0.1, 0.0]),
    ],
)
def test_flax_nnx_paths_are_spelled_one_way(options, expected):
    """In `init` NNX wraps the parameters, so that paths end in "/value"."""
    model = nnx.Sequential(nnx.Linear(1, 1, rngs=nnx.Rngs(0)))
    optimizer = nnx.Optimizer(
        model, mxnet.ftml(0.1, beta2=0.0, wd=1.0, **options), wrt=nnx.Param
    )
    before = nnx.to_pure_dict(nnx.state(model))
    grads = jax.tree.map(jnp.zeros_like, nnx.state(model, nnx.Param))
    grads["layers"][0]["bias"] = nnx.Param(jnp.ones(1))
    optimizer.update(model, grads)
    after = nnx.to_pure_dict(nnx.state(model))
    moves = jax.tree.map(jnp.subtract, after, before)
    moves = [abs(move.item()) for move in jax.tree.leaves(moves)]
    np.testing.assert_allclose(moves, expected, rtol=1e-5)


def test_params_are_needed_for_decay_alone():
    optimizer = mxnet.ftml(clip_gradient=1.0, lr_mult={"*": 2.0})
    updates, _ = optimizer.update(PARAMS, optimizer.init(PARAMS))
    chex.assert_trees_all_equal_shapes_and_dtypes(updates, PARAMS)
    optimizer = mxnet.ftml(wd=0.1, wd_mult={"*": 2.0})
    with pytest.raises(ValueError, match="params"):
        optimizer.update(PARAMS, optimizer.init(PARAMS))


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
        expected = -lr * 0.4 / (1 - 0.6**state.count)
        np.testing.assert_allclose(updates["a"], expected, rtol=1e-5)
    assert update._cache_size() == 1


INJECTED = optax.inject_hyperparams(
    mxnet.ftml,
    hyperparam_dtype=jnp.float32,
    static_args=("begin_num_update", "lr_scheduler"),
)


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
@pytest.mark.parametrize("make", [mxnet.ftml, INJECTED])
@pytest.mark.parametrize("bound", [0, np.array(-1.0), 0.5, np.float32(2)])
def test_clip_gradient_clips_only_above_zero(x64, dtype, make, bound):
    grads = {"a": jnp.array([-3.0, 0.25, 900.0], dtype)}
    optimizer = make(epsilon=1e3, clip_gradient=bound)
    updates, _ = optimizer.update(grads, optimizer.init(grads), grads)
    assert (updates["a"][0] == -updates["a"][2]) == (bound > 0)


@pytest.mark.parametrize("make", [mxnet.ftml, INJECTED])
def test_zero_dimensional_arrays_are_numbers(make):
    schedule = {"lr_scheduler": mxnet.FactorScheduler(2, 0.5)}
    numbers = {"wd": 0.5, "rescale_grad": 2.0, "clip_gradient": 0.7}
    arrays = {name: np.array(value) for name, value in numbers.items()}
    updates = []
    for optimizer in (
        mxnet.ftml(epsilon=1.0, begin_num_update=3, **schedule, **numbers),
        make(epsilon=1.0, begin_num_update=np.int64(3), **schedule, **arrays),
    ):
        state = optimizer.init(PARAMS)
        updates.append(optimizer.update(PARAMS, state, PARAMS)[0])
    chex.assert_trees_all_close(*updates, rtol=1e-6)


@pytest.mark.parametrize(
    ("error", "match", "arguments"),
    [
        (TypeError, "'use_fused_step'.*leave it out", {"use_fused_step": True}),
        (TypeError, "'param_idx2name'.*paths", {"param_idx2name": {}}),
        (TypeError, "'sym'.*wd_mult by path", {"sym": None}),
        (TypeError, "'beta_1'", {"beta_1": 0.9}),
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
        (ValueError, "clip_gradient .*nan", {"clip_gradient": np.nan}),
        (ValueError, "wd .*inf", {"wd": np.inf}),
    ],
)
def test_arguments_are_checked(error, match, arguments):
    with pytest.raises(error, match=match):
        mxnet.ftml(**arguments)


@pytest.mark.parametrize("name", ["lr_mult", "wd_mult"])
@pytest.mark.parametrize(
    ("error", "match", "multipliers"),
    [
        (ValueError, "{} .*'a/b'.*conv/kernel", {"a/b": 2.0}),
        (TypeError, "{} .*paths.*7", {7: 2.0}),
        (TypeError, r"{}\['conv/\*'\] .*'2'", {"conv/*": "2"}),
        (ValueError, r"{}\['conv/\*'\] .*inf", {"conv/*": np.inf}),
    ],
)
def test_multipliers_are_checked(name, error, match, multipliers):
    optimizer = mxnet.ftml(**{name: multipliers})
    with pytest.raises(error, match=match.format(name)):
        optimizer.init(PARAMS)
