"""MXNet's files of states, there and back."""

import pathlib
import pickle
import sys
import types

import jax
import numpy as np
import optax
import pytest

from optax_ftml import mxnet
from tests.programs import mxnet_settings

FILES = pathlib.Path(__file__).parents[1] / "data" / "mxnet_files"
CLASSES = [
    "mxnet.ndarray.ndarray.NDArray",
    "mxnet.optimizer.optimizer.FTML",
    "mxnet.optimizer.ftml.FTML",
    "mxnet.lr_scheduler.FactorScheduler",
]


class _Stub:
    """Stands in for a class of MXNet's in Python's own pickling."""

    def __init__(self, *args):
        pass

    def __eq__(self, other):
        return type(self) is type(other) and vars(self) == vars(other)

    def __reduce_ex__(self, protocol):
        if type(self).__name__ == "NDArray":
            return type(self), (None,), vars(self)
        return super().__reduce_ex__(protocol)


@pytest.fixture
def stubs(monkeypatch):
    """Puts stubs where Python's unpickler looks for MXNet's classes."""
    monkeypatch.setitem(sys.modules, "mxnet", types.SimpleNamespace())
    for path in CLASSES:
        module, _, name = path.rpartition(".")
        stub = type(name, (_Stub,), {"__module__": module})
        namespace = types.SimpleNamespace(**{name: stub})
        monkeypatch.setitem(sys.modules, module, namespace)


@pytest.mark.usefixtures("stubs")
@pytest.mark.parametrize("kind", ["plain", "multi_precision"])
@pytest.mark.parametrize("version", [1, 2])
def test_python_unpickles_our_file_as_it_does_mxnets(tmp_path, version, kind):
    path = FILES / f"{version}_{kind}_100_trainer.states"
    expected, optimizer = pickle.loads(path.read_bytes())
    mxnet.save_states(tmp_path / "ours", mxnet.load_states(path))
    found, ours = pickle.loads((tmp_path / "ours").read_bytes())
    assert found == expected
    assert list(found) == list(expected)
    optimizer.lr_scheduler.base_lr = pytest.approx(0.01)
    assert (optimizer.lr, optimizer.allow_np_array) == (0.02, version == 2)
    optimizer.lr, optimizer.allow_np_array = None, True
    assert ours == optimizer


@pytest.mark.usefixtures("stubs")
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_reads_every_pickle_protocol(tmp_path, protocol):
    path = FILES / "1_multi_precision_100_trainer.states"
    states, optimizer = pickle.loads(path.read_bytes())
    optimizer.wd = np.float32(optimizer.wd)
    optimizer.epsilon = np.float64(optimizer.epsilon)
    optimizer.idx2name = {2: "fc_bias"}
    optimizer.lr_mult = {0: 2, "fc_bias": np.float16(0.5), "other": 7.0}
    (tmp_path / "file").write_bytes(pickle.dumps((states, optimizer), protocol))
    found = mxnet.load_states(tmp_path / "file")
    expected = mxnet.load_states(path)
    jax.tree.map(np.testing.assert_array_equal, found.slots, expected.slots)
    assert found.num_update == expected.num_update
    changed = {"wd": float(np.float32(0.01)), "lr_mult": {0: 2, 2: 0.5}}
    assert found.options == expected.options | changed


SLOTS = {
    7: mxnet.FtmlSlots(*np.random.default_rng(0).random((3, 2, 3))),
    "fc_bias": mxnet.FtmlSlots(*np.ones((4, 1), np.float32)),
    "empty": mxnet.FtmlSlots(*np.ones((3, 0, 2), np.float16)),
    "scalar": mxnet.FtmlSlots(*[np.array(1.5)] * 3),
}


@pytest.mark.parametrize("seed", range(12))
def test_states_survive_writing_and_reading(tmp_path, seed):
    setting = mxnet_settings.random_setting(seed)
    scheduler = mxnet_settings.scheduler_of(setting)
    options = {
        **setting["options"],
        "learning_rate": None if scheduler else 0.3,
        "lr_mult": {7: 2.0},
        "wd_mult": {"fc_bias": 0.0},
        "order": setting["order"],
        **({"lr_scheduler": scheduler} if scheduler else {}),
    }
    states = mxnet.UpdaterStates(SLOTS, seed, options)
    mxnet.save_states(tmp_path / "file", states)
    loaded = mxnet.load_states(tmp_path / "file")
    assert loaded[1:] == states[1:]
    # The keys are of both types, which a tree's keys cannot be.
    assert list(loaded.slots) == list(SLOTS)
    for key, slots in SLOTS.items():
        jax.tree.map(np.testing.assert_array_equal, loaded.slots[key], slots)


def test_a_finished_schedule_stays_finished(tmp_path):
    """Beyond max_update MXNet returns what it finds as base_lr."""
    scheduler = mxnet.PolyScheduler(10, base_lr=0.5, final_lr=0.125)
    options = {"learning_rate": None, "lr_scheduler": scheduler}
    for num_update, base_lr in [(9, 0.5), (10, 0.125), (11, 0.125)]:
        states = mxnet.UpdaterStates(SLOTS, num_update, options)
        mxnet.save_states(tmp_path / "file", states)
        loaded = mxnet.load_states(tmp_path / "file").options["lr_scheduler"]
        assert loaded.base_lr == base_lr
        assert loaded(8) == scheduler(8)


def test_what_mxnet_does_not_have_is_not_written(tmp_path):
    schedule = optax.cosine_decay_schedule(0.1, 10)
    options = {"learning_rate": None, "lr_scheduler": schedule}
    states = mxnet.UpdaterStates(SLOTS, 7, options)
    with pytest.raises(ValueError, match="one of MXNet's"):
        mxnet.save_states(tmp_path / "file", states)
    with pytest.raises(ValueError, match="how many updates"):
        mxnet.save_states(tmp_path / "file", states._replace(num_update=None))
