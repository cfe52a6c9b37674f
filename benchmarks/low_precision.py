"""A small transformer on the standard library's sources, in low precision.

Trains the same network from the same start on the same characters, with
parameters and accumulators in several precisions, and writes a table of the
losses and of the bytes per parameter:

    python benchmarks/low_precision.py
"""

import argparse
import pathlib
import platform
import sysconfig
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optax_ftml

CONTEXT, BATCH, WIDTH, HEADS, LAYERS = 64, 16, 64, 4, 2


def read_sources():
    """The standard library's own modules, as ASCII codes: train, held out."""
    paths = sorted(pathlib.Path(sysconfig.get_path("stdlib")).glob("*.py"))
    text = b"".join(path.read_bytes() for path in paths)
    codes = np.frombuffer(text, np.uint8) % 128
    cut = int(0.95 * len(codes))
    return codes[:cut], codes[cut:]


def batches(codes, steps, seed):
    rng = np.random.default_rng(seed)
    starts = rng.integers(len(codes) - CONTEXT - 1, size=(steps, BATCH, 1))
    return codes[starts + np.arange(CONTEXT + 1)].astype(np.int32)


def init_params(key, dtype):
    keys = iter(jax.random.split(key, 3 + 4 * LAYERS))

    def matrix(inputs, outputs):
        scale = inputs**-0.5
        w = scale * jax.random.normal(next(keys), (inputs, outputs))
        return w.astype(dtype)

    return {
        "embedding": matrix(128, WIDTH),
        "position": matrix(CONTEXT, WIDTH),
        "layers": [
            {
                "scales": jnp.ones((2, WIDTH), dtype),
                "qkv": matrix(WIDTH, 3 * WIDTH),
                "out": matrix(WIDTH, WIDTH),
                "up": matrix(WIDTH, 4 * WIDTH),
                "down": matrix(4 * WIDTH, WIDTH),
            }
            for _ in range(LAYERS)
        ],
        "head": matrix(WIDTH, 128),
    }


def loss_fn(params, tokens):
    """Cross-entropy of the next character, in nats; arithmetic in float32."""
    params = jax.tree.map(lambda p: p.astype(jnp.float32), params)
    inputs, targets = tokens[:, :-1], tokens[:, 1:]

    def norm(x, scale):
        return scale * x / jnp.sqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6)

    x = params["embedding"][inputs] + params["position"]
    for layer in params["layers"]:
        qkv = norm(x, layer["scales"][0]) @ layer["qkv"]
        q, k, v = jnp.split(
            qkv.reshape(*x.shape[:2], HEADS, 3 * WIDTH // HEADS), 3, axis=-1
        )
        attention = jax.nn.dot_product_attention(q, k, v, is_causal=True)
        x += attention.reshape(x.shape) @ layer["out"]
        hidden = jax.nn.gelu(norm(x, layer["scales"][1]) @ layer["up"])
        x += hidden @ layer["down"]
    logits = norm(x, 1.0) @ params["head"]
    return optax.losses.softmax_cross_entropy_with_integer_labels(
        logits, targets
    ).mean()


def v_to_nearest(inner):
    """The inner optimizer, its v kept in bfloat16 by rounding to nearest."""

    def narrow(state):
        return jax.tree.map(
            lambda x: x.astype(jnp.bfloat16) if x.dtype == jnp.float32 else x,
            state,
        )

    def update(updates, state, params=None):
        wide = jax.tree.map(
            lambda x: x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x,
            state,
        )
        updates, wide = inner.update(updates, wide, params)
        return updates, narrow(wide)

    return optax.GradientTransformation(
        lambda params: narrow(inner.init(params)), update
    )


def settings(schedule, seed):
    """Name: the parameters' dtype and the optimizer."""
    bfloat16 = jnp.bfloat16
    rounding = optax.chain(
        optax_ftml.ftml(schedule, accumulator_dtype=bfloat16, seed=seed),
        optax_ftml.stochastic_rounding(seed),
    )
    master = optax_ftml.with_master_params(
        optax_ftml.ftml(schedule, accumulator_dtype=bfloat16, seed=seed)
    )
    return {
        "ftml, float32": (jnp.float32, optax_ftml.ftml(schedule)),
        "ftml, bfloat16 v, stochastic rounding": (bfloat16, rounding),
        "ftml, bfloat16, rounded to nearest": (
            bfloat16,
            v_to_nearest(optax_ftml.ftml(schedule)),
        ),
        "ftml, bfloat16 v, float32 parameters": (
            jnp.float32,
            optax_ftml.ftml(schedule, accumulator_dtype=bfloat16, seed=seed),
        ),
        "ftml, bfloat16 v, master copy": (bfloat16, master),
    }


def train(params, optimizer, data, held_out):
    @jax.jit
    def run(params, state, data):
        def step(carry, tokens):
            params, state = carry
            loss, grads = jax.value_and_grad(loss_fn)(params, tokens)
            updates, state = optimizer.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), loss

        return jax.lax.scan(step, (params, state), data)

    state = optimizer.init(params)
    losses = []
    for part in np.array_split(data, 10):
        (params, state), part_losses = run(params, state, part)
        losses.append(np.asarray(part_losses))
    test = np.mean([jax.jit(loss_fn)(params, tokens) for tokens in held_out])
    return params, state, np.mean(np.concatenate(losses)[-200:]), test


def bytes_per_parameter(*trees):
    size = sum(x.size for x in jax.tree.leaves(trees[0]))
    arrays = [x for x in jax.tree.leaves(trees) if x.ndim]
    return sum(x.size * x.dtype.itemsize for x in arrays) / size


def state_bytes(dtype, optimizer):
    params = jax.eval_shape(lambda: init_params(jax.random.key(0), dtype))
    return bytes_per_parameter(params, jax.eval_shape(optimizer.init, params))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument(
        "--output",
        type=pathlib.Path,
        default=pathlib.Path(__file__).parent / "low_precision.md",
    )
    args = parser.parse_args()
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, 5e-3, args.steps // 20, args.steps, 0.0
    )
    codes, test_codes = read_sources()
    rows = {}
    for seed in range(args.seeds):
        data = batches(codes, args.steps, seed)
        held_out = batches(test_codes, 50, 0)
        for name, (dtype, optimizer) in settings(schedule, seed).items():
            start = time.perf_counter()
            params = init_params(jax.random.key(seed), dtype)
            params, state, loss, test = train(params, optimizer, data, held_out)
            seconds = time.perf_counter() - start
            print(
                f"{name}: {loss:.4f} {test:.4f} ({seconds:.0f} s)", flush=True
            )
            rows.setdefault(name, []).append(
                (bytes_per_parameter(params, state), loss, test)
            )
    size = sum(x.size for x in jax.tree.leaves(params))
    first = np.mean([row[1] for row in rows["ftml, float32"]])
    lines = [
        f"A transformer of {size:,} parameters on {len(codes):,} characters "
        f"of Python {platform.python_version()}'s standard library, "
        f"{args.steps:,} steps of {BATCH} x {CONTEXT}, {args.seeds} seed(s); "
        "loss in nats per character, of the last 200 steps and on held-out "
        "modules; bytes of a parameter and its optimizer state together.",
        "",
        "| | bytes/parameter | loss | to float32 | held out |",
        "|---|---|---|---|---|",
    ]
    for name, results in rows.items():
        size, loss, test = np.mean(results, axis=0)
        lines.append(
            f"| {name} | {size:.0f} | {loss:.4f} | {loss / first - 1:+.2%} | "
            f"{test:.4f} |"
        )
    adam = optax.adam(schedule)
    for name, size in {
        "optax adam, float32": state_bytes(jnp.float32, adam),
        "optax adam, bfloat16 with master copy": state_bytes(
            jnp.bfloat16, optax_ftml.with_master_params(adam)
        ),
        "MXNet's FTML (d, v, z), float32": 4.0 * 4,
    }.items():
        lines.append(f"| {name} | {size:.0f} | | | |")
    print("\n".join(lines))
    args.output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
