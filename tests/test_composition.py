"""FTML inside optax's own parts, jitted and not, in both forms.

Each test compares with a computation that does not go through the part under
test: by hand, by another route, or by what optax documents of the wrapper.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib

import optax_ftml


def no_prox(leader, step_size):
    del step_size
    return leader


def make_params():
    return {"w": jnp.array([[1.0, -2.0], [0.5, 3.0]]), "b": jnp.array([0.1])}


def make_grads(step):
    keys = jax.random.split(jax.random.fold_in(jax.random.key(0), step))
    return {
        "w": jax.random.normal(keys[0], (2, 2)),
        "b": jax.random.normal(keys[1], (1,)),
    }


def run(optimizer, variant=lambda f: f, grads=make_grads, steps=6):
    update = variant(optimizer.update)
    params = make_params()
    state = optimizer.init(params)
    for step in range(steps):
        updates, state = update(grads(step), state, params)
        params = optax.apply_updates(params, updates)
    return params, state


class DeltaCompositionTest(chex.TestCase):
    prox = None

    def ftml(self, *args, **kwargs):
        return optax_ftml.ftml(*args, prox=self.prox, **kwargs)

    def injected(self, **kwargs):
        return optax.inject_hyperparams(
            optax_ftml.ftml, static_args=("prox", "seed")
        )(prox=self.prox, **kwargs)

    @chex.variants(with_jit=True, without_jit=True)
    def test_chain_in_mxnet_order(self):
        def by_hand(step):
            # The parameters are those of the run so far, kept in `thetas`.
            grads = jax.tree.map(
                lambda g: jnp.clip(0.5 * g, -0.4, 0.4), make_grads(step)
            )
            return optax.tree.add_scale(grads, 0.01, thetas[step])

        optimizer = optax.chain(
            optax.scale(0.5),
            optax.clip(0.4),
            optax.add_decayed_weights(0.01),
            self.ftml(0.1),
        )
        thetas = [make_params()]
        state = optimizer.init(thetas[0])
        update = self.variant(optimizer.update)
        for step in range(6):
            updates, state = update(make_grads(step), state, thetas[step])
            thetas.append(optax.apply_updates(thetas[step], updates))
        expected, _ = run(self.ftml(0.1), grads=by_hand)
        chex.assert_trees_all_close(thetas[-1], expected, rtol=1e-5)

    @chex.variants(with_jit=True, without_jit=True)
    def test_clip_by_global_norm(self):
        def by_hand(step):
            grads = make_grads(step)
            norm = np.sqrt(sum(np.sum(g**2) for g in jax.tree.leaves(grads)))
            return jax.tree.map(lambda g: g / max(1.0, norm / 0.7), grads)

        optimizer = optax.chain(optax.clip_by_global_norm(0.7), self.ftml(0.1))
        expected, _ = run(self.ftml(0.1), grads=by_hand)
        actual, _ = run(optimizer, self.variant)
        chex.assert_trees_all_close(actual, expected, rtol=1e-5)

    @chex.variants(with_jit=True, without_jit=True)
    def test_schedule_counts_from_zero(self):
        schedule = optax.piecewise_constant_schedule(0.1, {1: 0.5, 3: 0.2})
        rates = [0.1, 0.05, 0.05, 0.01, 0.01, 0.01]
        params = make_params()
        optimizer = self.injected(learning_rate=0.1)
        state = optimizer.init(params)
        for step, rate in enumerate(rates):
            state.hyperparams["learning_rate"] = jnp.float32(rate)
            updates, state = optimizer.update(make_grads(step), state, params)
            params = optax.apply_updates(params, updates)
        actual, _ = run(self.ftml(schedule), self.variant)
        chex.assert_trees_all_close(actual, params, rtol=1e-5)

    @chex.variants(with_jit=True, without_jit=True)
    def test_inject_hyperparams_equals_constants(self):
        numbers = {
            "learning_rate": 0.1,
            "b1": 0.5,
            "b2": 0.9,
            "eps": 1e-3,
            "eps_root": 1e-3,
        }
        actual, state = run(self.injected(**numbers), self.variant)
        expected, _ = run(self.ftml(**numbers))
        chex.assert_trees_all_close(actual, expected, rtol=1e-5)
        assert set(state.hyperparams) == set(numbers)

    def test_every_hyperparameter_changes_without_compiling_again(self):
        optimizer = self.injected()

        @jax.jit
        @chex.assert_max_traces(n=1)
        def step(grads, state, params):
            updates, state = optimizer.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        chex.clear_trace_counter()
        params = make_params()
        state = optimizer.init(params)
        for i in range(3):
            params, state = step(make_grads(i), state, params)
        before = params
        for name, value in {
            "learning_rate": 0.02,
            "b1": 0.3,
            "b2": 0.5,
            "eps": 1e-1,
            "eps_root": 1e-1,
        }.items():
            usual, _ = step(
                make_grads(3), jax.tree.map(jnp.copy, state), before
            )
            changed_state = state._replace(
                hyperparams={**state.hyperparams, name: jnp.float32(value)}
            )
            changed, _ = step(make_grads(3), changed_state, before)
            difference = optax.tree.norm(optax.tree.sub(usual, changed))
            assert difference > 1e-6, name

    @chex.variants(with_jit=True, without_jit=True)
    def test_masked_leaves_the_rest_alone(self):
        optimizer = optax.masked(self.ftml(0.1), {"w": True, "b": False})
        (actual, _), (expected, _) = (
            run(optimizer, self.variant),
            run(self.ftml(0.1)),
        )
        chex.assert_trees_all_close(actual["w"], expected["w"], rtol=1e-6)
        gradients = sum(make_grads(step)["b"] for step in range(6))
        # masked passes the other gradients through as they are.
        chex.assert_trees_all_close(
            actual["b"], make_params()["b"] + gradients, rtol=1e-5
        )

    @chex.variants(with_jit=True, without_jit=True)
    def test_partition_gives_each_leaf_its_own(self):
        optimizer = optax.partition(
            {"fast": self.ftml(0.1), "slow": self.ftml(0.001)},
            {"w": "fast", "b": "slow"},
        )
        actual, _ = run(optimizer, self.variant)
        chex.assert_trees_all_close(
            actual,
            {
                "w": run(self.ftml(0.1))[0]["w"],
                "b": run(self.ftml(0.001))[0]["b"],
            },
            rtol=1e-6,
        )

    @chex.variants(with_jit=True, without_jit=True)
    def test_multi_steps_takes_the_mean(self):
        def mean(step):
            return optax.tree.scale(
                0.5,
                optax.tree.add(make_grads(2 * step), make_grads(2 * step + 1)),
            )

        optimizer = optax.MultiSteps(self.ftml(0.1), every_k_schedule=2)
        actual, _ = run(optimizer, self.variant, steps=12)
        expected, _ = run(self.ftml(0.1), grads=mean, steps=6)
        chex.assert_trees_all_close(actual, expected, rtol=1e-5)

    @chex.variants(with_jit=True, without_jit=True)
    def test_apply_if_finite_skips_a_nan(self):
        def with_nan(step):
            if step == 3:
                return optax.tree.full_like(make_grads(step), jnp.nan)
            return make_grads(step - (step > 3))

        optimizer = optax.apply_if_finite(self.ftml(0.1), 5)
        actual, _ = run(optimizer, self.variant, grads=with_nan, steps=7)
        expected, _ = run(self.ftml(0.1), steps=6)
        chex.assert_trees_all_close(actual, expected, rtol=1e-6)

    @chex.variants(with_jit=True, without_jit=True)
    def test_flatten(self):
        actual, _ = run(optax.flatten(self.ftml(0.1)), self.variant)
        expected, _ = run(self.ftml(0.1))
        chex.assert_trees_all_close(actual, expected, rtol=1e-6)

    @chex.variants(with_jit=True, without_jit=True)
    def test_lookahead_returns_to_the_middle(self):
        optimizer = optax.lookahead(
            self.ftml(0.1), sync_period=3, slow_step_size=0.5
        )
        params = optax.LookaheadParams.init_synced(make_params())
        state = optimizer.init(params)
        update = self.variant(optimizer.update)
        for step in range(3):
            updates, state = update(make_grads(step), state, params)
            params = optax.apply_updates(params, updates)
        fast, _ = run(self.ftml(0.1), steps=3)
        middle = jax.tree.map(lambda x, y: (x + y) / 2, make_params(), fast)
        chex.assert_trees_all_close(params.slow, middle, rtol=1e-5)
        chex.assert_trees_all_close(params.fast, middle, rtol=1e-5)

    @chex.variants(with_jit=True, without_jit=True)
    def test_reduce_on_plateau_shrinks_steps(self):
        optimizer = optax.chain(
            self.ftml(0.1),
            optax.contrib.reduce_on_plateau(factor=0.5, patience=2),
        )
        params = make_params()
        state = optimizer.init(params)
        update = self.variant(optimizer.update)
        for step in range(6):
            updates, state = update(
                make_grads(step), state, params, value=jnp.asarray(1.0)
            )
            params = optax.apply_updates(params, updates)
        assert optax.tree.get(state, "scale") < 1

    def test_takes_extra_arguments_of_others(self):
        optimizer = self.ftml(0.1)
        state = optimizer.init(make_params())
        actual, _ = optimizer.update(
            make_grads(0), state, make_params(), value=1.0
        )
        expected, _ = optimizer.update(make_grads(0), state, make_params())
        chex.assert_trees_all_equal(actual, expected)

    def test_tree_get_and_map_params(self):
        params = make_params()
        optimizer = optax.chain(optax.clip_by_global_norm(1.0), self.ftml(0.1))
        _, state = run(optimizer)
        v = optax.tree.get(state, "v")
        chex.assert_trees_all_equal_shapes(v, params)
        assert optax.tree.get(state, "count") == 6
        names = optax.tree.map_params(
            optimizer,
            lambda _, name: name,
            state,
            {"w": "w's", "b": "b's"},
            transform_non_params=lambda _: None,
        )
        slots = 1 if self.prox is None else 2
        assert jax.tree.leaves(names) == ["b's", "w's"] * slots

    def test_scan_equals_a_loop(self):
        optimizer = self.ftml(0.1)

        def step(carry, i):
            params, state = carry
            updates, state = optimizer.update(make_grads(i), state, params)
            return (optax.apply_updates(params, updates), state), None

        carry = (make_params(), optimizer.init(make_params()))
        actual, _ = jax.jit(functools.partial(jax.lax.scan, step))(
            carry, jnp.arange(6)
        )
        chex.assert_trees_all_close(actual, run(optimizer), rtol=1e-5)

    def test_vmap_over_optimizers(self):
        rates = jnp.array([0.0, 0.01, 0.1])

        def train(rate):
            return run(self.ftml(rate))[0]

        actual = jax.jit(jax.vmap(train))(rates)
        for i, rate in enumerate(rates):
            one = jax.tree.map(lambda x, i=i: x[i], actual)
            expected, _ = run(self.ftml(float(rate)))
            chex.assert_trees_all_close(one, expected, rtol=1e-5)


class LeaderCompositionTest(DeltaCompositionTest):
    prox = staticmethod(no_prox)
