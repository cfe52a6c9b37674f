"""Trains a small network with FTML in MXNet, and saves it in all its ways.

Like mxnet_runs.py this needs NumPy alone to be imported, and MXNet to be run,
which writes the files of one version of MXNet into a directory:

    python3.10 tests/programs/mxnet_network.py record DIRECTORY

or goes on with training from files that others have written:

    python3.10 tests/programs/mxnet_network.py resume KIND PARAMS STATES RESULT

where the kind is "plain" or "multi_precision".
"""

import sys

import numpy as np

# Names in files of parameters, and Trainer's indices, which are by the order
# of the names.
NAMES = ["0.bias", "0.weight", "1.bias", "1.weight"]
SHAPES = {
    "0.weight": (4, 3),
    "0.bias": (4,),
    "1.weight": (2, 4),
    "1.bias": (2,),
}

OPTIONS = {"learning_rate": 0.02, "wd": 0.01, "clip_gradient": 0.1}
SCHEDULER = {"step": 60, "factor": 0.5, "base_lr": 0.02}
# Of Gluon's Parameters, which Trainer does not save.
LR_MULT = {"1.weight": 0.5}
WD_MULT = {"0.bias": 0.0, "1.bias": 0.0}


def data():
    """Returns the inputs and targets."""
    random = np.random.RandomState(0)
    return (
        random.standard_normal((16, 3)).astype(np.float32),
        random.standard_normal((16, 2)).astype(np.float32),
    )


class Training:
    """A network and its trainer.

    Args:
        mx: MXNet.
        multi_precision: With weights in float16.
        trained: Whether files are to be loaded, and options with them.
    """

    def __init__(self, mx, multi_precision, trained=False):
        self.mx = mx
        self.is_2 = mx.__version__.startswith("2")
        self.numpy = mx.np if self.is_2 else mx.nd
        if self.is_2:
            mx.npx.set_np()
        self.net = mx.gluon.nn.Sequential()
        self.net.add(mx.gluon.nn.Dense(4, in_units=3))
        self.net.add(mx.gluon.nn.Dense(2, in_units=4))
        self.net.initialize()
        random = np.random.RandomState(1)
        for name in NAMES:
            value = 0.5 * random.standard_normal(SHAPES[name])
            parameter = self.parameter(name)
            parameter.set_data(self.numpy.array(value))
            parameter.lr_mult = LR_MULT.get(name, 1.0)
            parameter.wd_mult = WD_MULT.get(name, 1.0)
        if multi_precision:
            self.net.cast("float16")
        options = {
            **OPTIONS,
            "lr_scheduler": mx.lr_scheduler.FactorScheduler(**SCHEDULER),
        }
        self.trainer = mx.gluon.Trainer(
            self.net.collect_params(),
            "ftml",
            {} if trained else {**options, "multi_precision": multi_precision},
        )

    def parameter(self, name):
        layer, kind = name.split(".")
        return getattr(self.net[int(layer)], kind)

    def train(self, steps):
        inputs, targets = map(self.numpy.array, data())
        for _ in range(steps):
            with self.mx.autograd.record():
                # There is no matrix product in float16 on the CPU.
                w0, b0, w1, b1 = (
                    self.parameter(name).data().astype("float32")
                    for name in ("0.weight", "0.bias", "1.weight", "1.bias")
                )
                hidden = self.numpy.tanh(self.numpy.dot(inputs, w0.T) + b0)
                outputs = self.numpy.dot(hidden, w1.T) + b1
                loss = ((outputs - targets) ** 2).mean()
            loss.backward()
            self.trainer.step(1)


def record(mx, directory):
    """Writes the files of a training of 200 steps."""
    for multi_precision in (False, True):
        training = Training(mx, multi_precision)
        kind = "multi_precision" if multi_precision else "plain"
        start = f"{directory}/{mx.__version__[0]}_{kind}"
        for steps in (0, 100, 100):
            training.train(steps)
            count = training.trainer._optimizer.num_update
            path = f"{start}_{count}"
            training.net.save_parameters(path + ".params")
            if count == 100:
                training.trainer.save_states(path + "_trainer.states")
                with open(path + "_updater.states", "wb") as file:
                    updater = training.trainer._updaters[0]
                    file.write(updater.get_states(dump_optimizer=False))
    save_arrays(mx, directory)


def save_arrays(mx, directory):
    """Writes files of arrays in every form there is."""
    start = f"{directory}/{mx.__version__[0]}_"
    dtypes = [
        "float16",
        "float32",
        "float64",
        "uint8",
        "int8",
        "int32",
        "int64",
    ]
    if mx.__version__[0] == "2":
        mx.npx.savez(
            start + "dtypes.npz",
            scalar=mx.np.array(2.5),
            **{d: mx.np.array([[1, 2, 3]], dtype=d) for d in dtypes},
        )
        mx.npx.save(start + "array.npy", mx.np.array([[1, 2, 3]]))
        mx.nd.save(
            start + "np_shape.params",
            [
                mx.np.array(2.5).as_nd_ndarray(),
                mx.np.zeros((0, 3)).as_nd_ndarray(),
            ],
        )
        sparse = mx.nd.array([[0, 1], [0, 0]]).tostype("row_sparse")
        mx.npx.savez(start + "sparse.npz", dense=mx.np.ones(2), sparse=sparse)
        return
    arrays = {d: mx.nd.array([[1, 2, 3]], dtype=d) for d in dtypes}
    mx.nd.save(start + "named.params", arrays)
    mx.nd.save(start + "unnamed.params", list(arrays.values()))
    for kind in ("row_sparse", "csr"):
        sparse = mx.nd.array([[0, 1], [0, 0]]).tostype(kind)
        mx.nd.save(
            f"{start}{kind}.params",
            {"dense": mx.nd.ones(2), "sparse": sparse},
        )


def resume(mx, kind, params, states, result):
    """Trains for 100 steps more and writes the weights."""
    training = Training(mx, kind == "multi_precision", trained=True)
    training.net.load_parameters(params)
    training.trainer.load_states(states)
    training.train(100)
    np.savez(
        result,
        **{name: training.parameter(name).data().asnumpy() for name in NAMES},
    )


def main(command, *arguments):
    import mxnet as mx

    {"record": record, "resume": resume}[command](mx, *arguments)


if __name__ == "__main__":
    main(*sys.argv[1:])
