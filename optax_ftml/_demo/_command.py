"""The demo: one network, one start, several optimizers, real digits."""

import argparse
import dataclasses
import functools
import math
import pathlib
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import sklearn.datasets
import sklearn.model_selection
import tqdm
from flax import nnx
from matplotlib import figure

import optax_ftml
from optax_ftml._demo import _checkpoint

# The learning rates are the optimizers' usual ones.
_OPTIMIZERS: dict[
    str, tuple[Callable[..., optax.GradientTransformation], float]
]
_OPTIMIZERS = {
    "ftml": (optax_ftml.ftml, 0.0025),
    "adam": (optax.adam, 0.001),
    "adamw": (optax.adamw, 0.001),
    "rmsprop": (optax.rmsprop, 0.001),
    "sgd": (functools.partial(optax.sgd, momentum=0.9), 0.1),
}


@dataclasses.dataclass
class Run:
    """What one optimizer did.

    Attributes:
        losses: Mean training loss of each epoch, in nats.
        accuracies: Test accuracy after each epoch, in [0, 1].
        state_bytes_per_parameter: Bytes of optimizer state a parameter.
        milliseconds_per_step: Median over the epochs, without compilation.
    """

    losses: list[float]
    accuracies: list[float]
    state_bytes_per_parameter: float
    milliseconds_per_step: float


class Cnn(nnx.Module):
    """Two convolutions and a linear layer for 8 x 8 images."""

    def __init__(self, rngs: nnx.Rngs):
        self.conv1 = nnx.Conv(1, 32, kernel_size=(3, 3), rngs=rngs)
        self.conv2 = nnx.Conv(32, 64, kernel_size=(3, 3), rngs=rngs)
        self.linear = nnx.Linear(4 * 4 * 64, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps images, (batch, 8, 8, 1), to logits, (batch, 10)."""
        x = nnx.relu(self.conv1(x))
        x = nnx.relu(self.conv2(x))
        x = nnx.max_pool(x, window_shape=(2, 2), strides=(2, 2))
        return self.linear(x.reshape(x.shape[0], -1))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the demo's options."""
    parser.add_argument(
        "--epochs", type=_positive_int, default=40, help="passes over the data"
    )
    parser.add_argument(
        "--batch-size", type=_positive_int, default=32, help="images a step"
    )
    parser.add_argument(
        "--learning-rate",
        type=_learning_rate,
        default=argparse.SUPPRESS,
        help="of every optimizer (default: "
        + ", ".join(f"{name} {lr}" for name, (_, lr) in _OPTIMIZERS.items())
        + ")",
    )
    parser.add_argument(
        "--seed",
        type=_seed,
        default=0,
        help="of the split, the initial parameters and the order of the data",
    )
    parser.add_argument(
        "--optimizers",
        nargs="+",
        choices=list(_OPTIMIZERS),
        default=["ftml", "adam", "rmsprop"],
        help="which to train, each from the same start",
    )
    parser.add_argument(
        "--output-dir",
        type=pathlib.Path,
        default=pathlib.Path("demo-output"),
        help="where the plot of the loss curves goes",
    )
    parser.add_argument(
        "--checkpoint",
        type=pathlib.Path,
        metavar="DIR",
        help="save there after every epoch, all that is needed to go on",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on from the last whole checkpoint, to the same end to the bit",
    )


def run(args: argparse.Namespace) -> int:
    """Trains, prints the table and saves the plot."""
    if args.resume and args.checkpoint is None:
        raise SystemExit("--resume needs --checkpoint DIR.")
    data = _load_digits(args.seed)
    if args.batch_size > len(data[0]):
        raise SystemExit(
            f"--batch-size must be at most the {len(data[0])} training images, "
            f"got {args.batch_size}."
        )
    runs = {}
    for name in args.optimizers:
        make, learning_rate = _OPTIMIZERS[name]
        learning_rate = getattr(args, "learning_rate", learning_rate)
        optimizer = optax.chain(
            optax.clip_by_global_norm(1.0),
            optax.add_decayed_weights(1e-4),
            make(learning_rate),
        )
        directory = args.checkpoint and args.checkpoint / name
        if directory and not args.resume and _checkpoint.saved(directory):
            raise SystemExit(
                f"{directory} has checkpoints: add --resume to go on from the "
                "last, or name another --checkpoint DIR."
            )
        runs[name] = train(
            name,
            optimizer,
            data,
            args.epochs,
            args.batch_size,
            args.seed,
            directory,
            {
                "batch_size": args.batch_size,
                "learning_rate": learning_rate,
                "seed": args.seed,
            },
        )
    print(_table(runs))
    print(f"Loss curves: {_plot(runs, args.output_dir)}")
    return 0


def train(
    name: str,
    optimizer: optax.GradientTransformation,
    data: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    epochs: int,
    batch_size: int,
    seed: int,
    checkpoint: pathlib.Path | None = None,
    settings: dict[str, float] | None = None,
) -> Run:
    """Trains the network and shows a progress bar.

    Args:
        name: What the progress bar calls the optimizer.
        optimizer: Any gradient transformation.
        data: Training images (n, 8, 8, 1) and labels (n,), then the test's.
        epochs: Passes over the training data.
        batch_size: Images a step; what is left of an epoch is dropped.
        seed: Of the initial parameters and of the order of the data.
        checkpoint: A directory to save in after every epoch, and to go on from
            if there is something in it.
        settings: What has to be the same for that.

    Returns:
        A :class:`Run`.
    """
    train_images, train_labels, test_images, test_labels = data
    graph, params = nnx.split(Cnn(nnx.Rngs(seed)), nnx.Param)
    opt_state = optimizer.init(params)

    def loss_fn(params, images, labels):
        logits = nnx.merge(graph, params)(images)
        return optax.losses.softmax_cross_entropy_with_integer_labels(
            logits, labels
        ).mean()

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def train_step(params, opt_state, images, labels):
        loss, grads = jax.value_and_grad(loss_fn)(params, images, labels)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss

    @jax.jit
    def accuracy(params, images, labels):
        logits = nnx.merge(graph, params)(images)
        return jnp.mean(jnp.argmax(logits, axis=-1) == labels)

    steps = len(train_images) // batch_size
    compiled_step = train_step.lower(
        params, opt_state, train_images[:batch_size], train_labels[:batch_size]
    ).compile()
    result = Run([], [], _nbytes(opt_state) / _size(params), 0.0)
    milliseconds: list[float] = []
    first = 0
    if checkpoint:
        restored = _checkpoint.restore(checkpoint, (params, opt_state))
        if restored:
            first, (params, opt_state), record = restored
            if record["settings"] != settings:
                raise SystemExit(
                    f"{checkpoint} is of a run with {record['settings']}; "
                    f"to go on from it must be the same, got {settings}."
                )
            result.losses, result.accuracies = record["curves"]
            milliseconds = record["milliseconds"]
            print(f"{name}: going on from epoch {first}.")
    with tqdm.tqdm(
        total=epochs * steps,
        initial=first * steps,
        desc=f"{name:8}",
        unit="step",
    ) as bar:
        for epoch in range(first, epochs):
            order = np.random.default_rng((seed, epoch)).permutation(
                len(train_images)
            )
            losses = []
            start = time.perf_counter()
            for batch in order[: steps * batch_size].reshape(steps, batch_size):
                params, opt_state, loss = compiled_step(
                    params, opt_state, train_images[batch], train_labels[batch]
                )
                losses.append(float(loss))
                bar.set_postfix(loss=f"{np.mean(losses):.4f}", refresh=False)
                bar.update()
            milliseconds.append(1e3 * (time.perf_counter() - start) / steps)
            result.losses.append(float(np.mean(losses)))
            result.accuracies.append(
                float(accuracy(params, test_images, test_labels))
            )
            if checkpoint:
                _checkpoint.save(
                    checkpoint,
                    epoch + 1,
                    (params, opt_state),
                    {
                        "settings": settings,
                        "curves": (result.losses, result.accuracies),
                        "milliseconds": milliseconds,
                    },
                )
    result.milliseconds_per_step = statistics.median(milliseconds)
    return result


def _load_digits(seed):
    images, labels = sklearn.datasets.load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32).reshape(-1, 8, 8, 1)
    train_images, test_images, train_labels, test_labels = (
        sklearn.model_selection.train_test_split(
            images,
            labels.astype(np.int32),
            test_size=0.2,
            random_state=seed,
            stratify=labels,
        )
    )
    return train_images, train_labels, test_images, test_labels


def _nbytes(tree):
    return sum(x.nbytes for x in jax.tree.leaves(tree))


def _size(tree):
    return sum(x.size for x in jax.tree.leaves(tree))


def _table(runs):
    rows = [
        "optimizer  test accuracy  final loss  state bytes/parameter  ms/step",
        "---------  -------------  ----------  ---------------------  -------",
    ]
    rows += [
        f"{name:9}  {run.accuracies[-1]:13.2%}  {run.losses[-1]:10.5f}  "
        f"{run.state_bytes_per_parameter:21.2f}  "
        f"{run.milliseconds_per_step:7.2f}"
        for name, run in runs.items()
    ]
    return "\n".join(rows)


def _plot(runs, directory):
    fig = figure.Figure(figsize=(6, 4), layout="constrained")
    axes = fig.add_subplot(
        title="Handwritten digits, the same network from the same start",
        xlabel="epoch",
        ylabel="mean training loss [nats]",
        yscale="log",
    )
    for (name, run), style in zip(
        runs.items(), ("-", "--", "-.", ":", (0, (1, 3))), strict=False
    ):
        epochs = range(1, len(run.losses) + 1)
        axes.plot(epochs, run.losses, linestyle=style, label=name)
    axes.legend(title="optimizer")
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "loss.png"
    fig.savefig(path, dpi=150)
    return path


def _positive_int(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def _seed(text):
    value = int(text)
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError(
            f"must be at least 0 and below 2**32, got {value}"
        )
    return value


def _learning_rate(text):
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(
            f"must be at least 0 and finite, got {value}"
        )
    return value
