"""Rounding to a neighbour at random, so that on average nothing is lost."""

import zlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.extend import random

from optax_ftml import _checks, _numerics


class StochasticRoundingState(NamedTuple):
    """State of `stochastic_rounding`.

    Attributes:
        count: Number of updates so far; shape (), int32.

    Examples:
        >>> import jax.numpy as jnp
        >>> import optax_ftml
        >>> optax_ftml.stochastic_rounding().init(jnp.ones(2, jnp.bfloat16))
        StochasticRoundingState(count=Array(0, dtype=int32))
    """

    count: jax.Array  # type: ignore[assignment]


def stochastic_rounding(
    seed: jax.typing.ArrayLike = 0,
) -> optax.GradientTransformationExtraArgs:
    r"""Round the step of low-precision parameters at random, without bias.

    In bfloat16 a step smaller than 1/512 of its parameter is lost for ever in
    the rounding to nearest. This transformation, the last of a chain, changes
    the update :math:`u` of a parameter :math:`\theta` in bfloat16 or float16
    such that :func:`optax.apply_updates` takes it to one of the two numbers of
    its dtype on either side of :math:`x = \theta + u`,

    .. math::
        \theta' = \begin{cases}
            x^- & \text{with probability } (x^+ - x) / (x^+ - x^-) \\
            x^+ & \text{with probability } (x - x^-) / (x^+ - x^-),
        \end{cases}

    so that :math:`\operatorname{E} \theta' = \theta + u`, a sum in float32.
    Where :math:`x` is a number of the dtype, and so where :math:`u` is 0,
    nothing is random.

    With updates in a low precision, too, a step that changes the sign of a
    parameter, or its size by more than a factor of two, is rounded to the
    update's dtype, as the update was.

    The random bits depend on the seed, the step, the leaf's path in the tree
    and the position in the leaf, and on nothing else: not on the sharding, and
    not on the other leaves. (Inside :func:`jax.shard_map` a device's part is
    the leaf: the parts then round alike.) Each number of a leaf has bits of its
    own, except those :math:`2^{32}` apart along a single axis.

    Args:
        seed: An integer; the same gives the same run.

    Returns:
        A :class:`optax.GradientTransformationExtraArgs`, whose state is a
        :class:`optax_ftml.StochasticRoundingState`. It needs the parameters in
        ``update``. Updates keep their dtype. Those of parameters in neither
        bfloat16 nor float16 pass through.

    Raises:
        TypeError: A seed that is not an integer.
        ValueError: From ``update``, missing parameters.

    Examples:
        >>> import jax.numpy as jnp
        >>> import optax
        >>> import optax_ftml
        >>> def run(optimizer):
        ...     params = jnp.ones(1000, jnp.bfloat16)
        ...     state = optimizer.init(params)
        ...     for _ in range(100):
        ...         grads = jnp.ones_like(params)
        ...         updates, state = optimizer.update(grads, state, params)
        ...         params = optax.apply_updates(params, updates)
        ...     return jnp.mean(params, dtype=jnp.float32)
        >>> print(f"{run(optax.sgd(0.001)):.3f}")  # 100 times 0.001 is 0.1
        1.000
        >>> rounding = optax_ftml.stochastic_rounding(seed=0)
        >>> print(f"{run(optax.chain(optax.sgd(0.001), rounding)):.3f}")
        0.900

    References:
        Gupta et al, `Deep Learning with Limited Numerical Precision
        <https://proceedings.mlr.press/v37/gupta15.html>`_, ICML 2015

    .. note::
        The expectation is that of the update as it arrives. Optimizers round
        their updates to their gradients' dtype: with gradients in bfloat16 by
        up to 1/512 of the update. With gradients in float32 they do not.

    .. note::
        A step beyond the largest finite number ends there. Infinities and NaN
        are what the plain sum makes them. Where XLA flushes subnormal float32
        numbers to zero, as on the CPU, parameters in bfloat16 below
        :math:`2^{-119}` round to nearest.
    """
    _checks.check_seed(seed)

    def init_fn(params):
        del params
        return StochasticRoundingState(count=jnp.zeros([], jnp.int32))

    def update_fn(updates, state, params=None, **extra_args):
        del extra_args
        _checks.check_given("params", params)
        count = optax.safe_increment(state.count)

        def round_step(path, theta, u):
            if jnp.result_type(theta) not in (jnp.bfloat16, jnp.float16):
                return u
            words = _random_words(seed, count, "params", path, theta)
            return _round_step(theta, u, words)

        updates = jax.tree.map_with_path(round_step, params, updates)
        return updates, StochasticRoundingState(count)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def cast_like(tree, other, seed, count):
    """Casts to the other tree's dtypes, to bfloat16 at random.

    Args:
        tree: Numbers in at least float32.
        other: A tree like it, with the dtypes to cast to.
        seed: An integer.
        count: The step.
    """

    def cast(path, x, like):
        if like.dtype != jnp.bfloat16:
            return x.astype(like.dtype)
        words = _random_words(seed, count, "v", path, x)
        return _round_at_random(x.astype(jnp.float32), like.dtype, words)

    return jax.tree.map_with_path(cast, tree, other)


def _round_step(theta, u, words):
    """Returns the update that takes theta to a neighbour of theta + u."""
    theta, dtype = theta.astype(jnp.float32), theta.dtype
    x = theta + u.astype(jnp.float32)
    target = _round_at_random(x, dtype, words).astype(jnp.float32)
    # Not a cast, which XLA may leave out.
    step = _numerics.round_to(target - theta, u.dtype).astype(u.dtype)
    return jnp.where(jnp.isfinite(x), step, u)


def _round_at_random(x, dtype, words):
    """Rounds float32 to one of the two numbers of a dtype around it."""
    x = stay_finite(x, dtype)
    near = _numerics.round_to(x, dtype)
    lost = x - near
    gap = jnp.sign(lost) * _spacing(x, dtype)
    uniform = (words >> 8).astype(jnp.float32) * 2.0**-24  # In [0, 1).
    # XLA's TPU compiler computes this in the parameters' kernel if it does not
    # end with a cast: 10 bytes per parameter instead of 14.
    return jnp.where(
        uniform * jnp.abs(gap) < jnp.abs(lost),
        (near + gap).astype(dtype),
        near.astype(dtype),
    )


def _spacing(x, dtype):
    """Returns how far apart the dtype's numbers are around x, in float32."""
    info = jnp.finfo(dtype)
    bits = jax.lax.bitcast_convert_type(x, jnp.int32) & 0x7F800000
    binade = jax.lax.bitcast_convert_type(bits, jnp.float32)
    return jnp.maximum(binade, float(info.tiny)) * float(info.eps)


def stay_finite(x, dtype):
    """Returns x, the finite numbers no larger than a narrower dtype's."""
    largest = float(jnp.finfo(dtype).max)
    return jnp.where(jnp.isinf(x), x, jnp.clip(x, -largest, largest))


def _random_words(seed, count, tree, path, like):
    """Returns random uint32 like an array, the same for the same arguments."""
    # Not jax.random.bits on folded keys: compiled for a TPU v5e, the folds are
    # 1,600 scalar kernels for 6 leaves and the 64-bit counters 3 kernels more
    # per shape, where here there is one per leaf. On the CPU a step takes four
    # times as long as with the products below.
    leaf = np.uint32(zlib.crc32(f"{tree}{jax.tree_util.keystr(path)}".encode()))
    axes = range(like.ndim)

    def threefry(axes, stream=0):
        # What jax.random is made of, as a function of the position alone: it
        # fuses, and each device computes its own part. Both words of the key
        # must have the same batch axes under vmap, hence the zeros. Each leaf
        # counts from its own number, so that XLA stores nothing for two leaves.
        whole = np.uint32(seed % 2**32) if isinstance(seed, int) else seed
        key, step = (jnp.asarray(x).astype(jnp.uint32) for x in (whole, count))
        digits, total = _position(_coordinates(like, axes), like.shape)
        return random.threefry2x32_p.bind(
            key + leaf + 0 * step,
            step + np.uint32(stream) + 0 * key,
            digits + leaf,
            total,
        )

    def products():
        # On the CPU, where one threefry per position makes a step four times
        # as long, there are a few words per row and one per column of the last
        # axis. Within a row the results are independent because the columns'
        # words are and an odd factor loses nothing; between rows because the
        # addends are. So any two are independent.
        factor, addend = threefry(axes[:-1])
        column, _ = threefry(axes[-1:], stream=2**31)
        words = (factor | 1) * column + addend
        # The lowest bits of products are the least random.
        return words ^ (words >> 16)

    return jax.lax.platform_dependent(
        cpu=products, default=lambda: threefry(axes)[0]
    )


def _coordinates(like, axes):
    """Returns an array's coordinates along axes, and 0 along the others."""
    # In the array's own sharding, where that is part of its type. Else every
    # device would compute all of them.
    sharding = jax.typeof(like).sharding
    shape = [n if axis in axes else 1 for axis, n in enumerate(like.shape)]
    spec = [s if axis in axes else None for axis, s in enumerate(sharding.spec)]
    sharding = jax.sharding.NamedSharding(
        sharding.mesh, jax.sharding.PartitionSpec(*spec)
    )
    return [
        jax.lax.broadcasted_iota(jnp.uint32, shape, axis, out_sharding=sharding)
        for axis in range(like.ndim)
    ]


def _position(coordinates, shape):
    """Returns two uint32 that together no two positions in a leaf share.

    The first has as its digits the sum of the coordinates and those along all
    axes but the longest. The second is the sum, or 0 where that has room.
    """
    # Every intermediate result thus varies along all axes. XLA stores what
    # varies along one: with the plain row-major position a TPU v5e runs nine
    # kernels for six leaves.
    total = sum(coordinates, start=np.uint32(0))
    digits, size = total, sum(shape)
    for axis in np.argsort(shape)[-2::-1]:
        digits = digits * np.uint32(shape[axis]) + coordinates[axis]
        size *= shape[axis]
    return digits, total * np.uint32(size > 2**32)
