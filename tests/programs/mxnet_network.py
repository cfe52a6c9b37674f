"""Trains a small network with FTML in MXNet, and saves it in all its ways.

Like mxnet_runs.py this needs NumPy alone to be imported, and MXNet to be run,
which writes the files of one version of MXNet into a directory:

    python3.10 tests/programs/mxnet_network.py record DIRECTORY

or goes on with training from files that others have written, NAME.params and
NAME.states, and writes the weights into NAME.npz:

    python3.10 tests/programs/mxnet_network.py resume KIND NAME

where the kind is "plain" or "multi_precision".
"""

import pathlib
import sys

import numpy as np

# By the names in files of parameters, in the order of Trainer's indices.
SHAPES = {
    "0.bias": (4,),
    "0.weight": (4, 3),
    "1.bias": (2,),
    "1.weight": (2, 4),
}
OPTIONS = {"learning_rate": 0.02, "wd": 0.01, "clip_gradient": 0.1}
SCHEDULER = {"step": 60, "factor": 0.5, "base_lr": 0.02}
# Of Gluon's Parameters, which Trainer does not save.
LR_MULT = {"1.weight": 0.5}
WD_MULT = {"0.bias": 0.0, "1.bias": 0.0}
DTYPES = ["float16", "float32", "float64", "uint8", "int8", "int32", "int64"]


def data():
    """Returns the inputs and targets."""
    draw = np.random.RandomState(0).standard_normal
    return [draw((16, size)).astype(np.float32) for size in (3, 2)]


class Training:
    """A network and its trainer.

    Args:
        mx: MXNet.
        kind: "plain", or "multi_precision" with weights in float16.
        options: The trainer's; none where they will come from a file.
    """

    def __init__(self, mx, kind, options):
        self.mx = mx
        self.numpy = mx.nd
        if mx.__version__.startswith("2"):
            mx.npx.set_np()
            self.numpy = mx.np
        dense, self.net = mx.gluon.nn.Dense, mx.gluon.nn.Sequential()
        self.net.add(dense(4, in_units=3), dense(2, in_units=4))
        self.net.initialize()
        self.params = {
            name: getattr(self.net[int(name[0])], name[2:]) for name in SHAPES
        }
        random = np.random.RandomState(1)
        for name, parameter in self.params.items():
            value = 0.5 * random.standard_normal(SHAPES[name])
            parameter.set_data(self.numpy.array(value))
            parameter.lr_mult = LR_MULT.get(name, 1.0)
            parameter.wd_mult = WD_MULT.get(name, 1.0)
        if kind == "multi_precision":
            self.net.cast("float16")
        params = self.net.collect_params()
        self.trainer = mx.gluon.Trainer(params, "ftml", options)

    def train(self, steps):
        inputs, targets = map(self.numpy.array, data())
        for _ in range(steps):
            with self.mx.autograd.record():
                # There is no matrix product in float16 on the CPU.
                b0, w0, b1, w1 = (
                    parameter.data().astype("float32")
                    for parameter in self.params.values()
                )
                hidden = self.numpy.tanh(self.numpy.dot(inputs, w0.T) + b0)
                outputs = self.numpy.dot(hidden, w1.T) + b1
                loss = ((outputs - targets) ** 2).mean()
            loss.backward()
            self.trainer.step(1)


def record(mx, directory):
    """Writes the files of a training of 200 steps, and of arrays."""
    start = f"{directory}/{mx.__version__[0]}_"
    for kind in ("plain", "multi_precision"):
        scheduler = mx.lr_scheduler.FactorScheduler(**SCHEDULER)
        options = {**OPTIONS, "lr_scheduler": scheduler}
        options["multi_precision"] = kind == "multi_precision"
        training = Training(mx, kind, options)
        for updates in (0, 100, 200):
            path = f"{start}{kind}_{updates}"
            training.net.save_parameters(path + ".params")
            if updates == 100:
                training.trainer.save_states(path + "_trainer.states")
                updater = training.trainer._updaters[0]
                states = updater.get_states(dump_optimizer=False)
                pathlib.Path(path + "_updater.states").write_bytes(states)
            training.train(100)
    # Arrays in every form that each of the versions has.
    arrays = {d: training.numpy.array([[1, 2, 3]], dtype=d) for d in DTYPES}
    sparse = mx.nd.array([[0, 1], [0, 0]])
    if mx.__version__[0] == "1":
        mx.nd.save(start + "named.params", arrays)
        mx.nd.save(start + "unnamed.params", list(arrays.values()))
        for kind in ("row_sparse", "csr"):
            both = {"dense": mx.nd.ones(2), "sparse": sparse.tostype(kind)}
            mx.nd.save(f"{start}{kind}.params", both)
        return
    mx.npx.savez(start + "dtypes.npz", scalar=mx.np.array(2.5), **arrays)
    mx.npx.save(start + "array.npy", mx.np.array([[1, 2, 3]]))
    arrays = [mx.np.array(2.5), mx.np.zeros((0, 3))]
    arrays = [array.as_nd_ndarray() for array in arrays]
    mx.nd.save(start + "np_shape.params", arrays)
    both = {"dense": mx.np.ones(2), "sparse": sparse.tostype("row_sparse")}
    mx.npx.savez(start + "sparse.npz", **both)


def resume(mx, kind, name):
    """Trains for 100 steps more and writes the weights."""
    training = Training(mx, kind, {})
    training.net.load_parameters(name + ".params")
    training.trainer.load_states(name + ".states")
    training.train(100)
    weights = {n: p.data().asnumpy() for n, p in training.params.items()}
    np.savez(name + ".npz", **weights)


def main(command, *arguments):
    import mxnet as mx

    {"record": record, "resume": resume}[command](mx, *arguments)


if __name__ == "__main__":
    main(*sys.argv[1:])
