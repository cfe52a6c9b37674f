"""MXNet's own files, there and back."""

import pathlib
import pickle
import struct
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_ftml
from optax_ftml import mxnet
from tests.programs import mxnet_network

FILES = pathlib.Path(__file__).parents[1] / "data" / "mxnet_files"
NAMES = dict(enumerate(mxnet_network.NAMES))
KINDS = ["plain", "multi_precision"]


def _loss(params):
    inputs, targets = mxnet_network.data()
    w0, b0, w1, b1 = (
        params[name].astype(jnp.float32)
        for name in ("0.weight", "0.bias", "1.weight", "1.bias")
    )
    outputs = jnp.tanh(inputs @ w0.T + b0) @ w1.T + b1
    return jnp.mean((outputs - targets) ** 2)


def _train(optimizer, params, state):
    """Returns the parameters and the state after 100 updates more."""

    @jax.jit
    def step(params, state):
        grads = jax.grad(_loss)(params)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params = jax.tree.map(jnp.asarray, params)
    for _ in range(100):
        params, state = step(params, state)
    return params, state


def _assert_same_weights(params, expected):
    assert params.keys() == expected.keys()
    for name, p in params.items():
        assert p.dtype == expected[name].dtype
        # A gradient in float16 may have been rounded the other way once.
        tolerance = 2e-5 if p.dtype == jnp.float32 else 2e-3
        size = np.max(np.abs(expected[name].astype(float)))
        np.testing.assert_allclose(
            np.asarray(p, float), expected[name], rtol=0, atol=tolerance * size
        )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("version", [1, 2])
def test_training_goes_on_where_mxnet_stopped(version, kind):
    start = FILES / f"{version}_{kind}"
    params = mxnet.load_params(f"{start}_100.params")
    states = mxnet.load_states(f"{start}_100_trainer.states")
    optimizer = mxnet.ftml(**states.with_paths(NAMES).options)
    state = mxnet.state_from_mxnet(
        states, optimizer.init(params), params, NAMES
    )
    params, _ = _train(optimizer, params, state)
    _assert_same_weights(params, mxnet.load_params(f"{start}_200.params"))


def _options(version, kind):
    return {
        **mxnet_network.OPTIONS,
        "lr_scheduler": mxnet.FactorScheduler(**mxnet_network.SCHEDULER),
        "multi_precision": kind == "multi_precision",
        "order": f"{version}.x",
    }


def ours_at_100(version, kind):
    """Returns the parameters and states of 100 steps from MXNet's start."""
    params = mxnet.load_params(FILES / f"{version}_{kind}_0.params")
    options = _options(version, kind)
    optimizer = mxnet.ftml(**options)
    params, state = _train(optimizer, params, optimizer.init(params))
    return params, mxnet.state_to_mxnet(state, params, NAMES, options)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("version", [1, 2])
def test_our_states_are_those_that_mxnet_saves(version, kind):
    _, ours = ours_at_100(version, kind)
    start = FILES / f"{version}_{kind}_100"
    for file in ("trainer", "updater"):
        theirs = mxnet.load_states(f"{start}_{file}.states")
        assert ours.slots.keys() == theirs.slots.keys()
        for key, slots in ours.slots.items():
            assert (slots.weight is None) == (kind == "plain")
            for x, y in zip(slots, theirs.slots[key], strict=True):
                if x is not None:
                    assert x.dtype == y.dtype == np.float32
                    # v and z are sums over gradients that cancel.
                    np.testing.assert_allclose(
                        x, y, rtol=0, atol=2e-3 * np.max(np.abs(y))
                    )
    assert mxnet.load_states(f"{start}_updater.states").num_update is None
    theirs = mxnet.load_states(f"{start}_trainer.states")
    assert theirs.num_update == ours.num_update == 100
    # MXNet has halved the learning rate at the 61st update.
    scheduler = theirs.options.pop("lr_scheduler")
    counts = jnp.arange(100, 300)
    np.testing.assert_allclose(
        jax.vmap(scheduler)(counts),
        jax.vmap(ours.options.pop("lr_scheduler"))(counts),
        rtol=1e-6,
    )
    assert ours.options.pop("learning_rate") == 0.02
    assert theirs.options.pop("learning_rate") is None
    assert theirs.options == {
        "beta1": 0.6,
        "beta2": 0.999,
        "epsilon": 1e-8,
        "rescale_grad": 1.0,
        "begin_num_update": 0,
        **ours.options,
    }


class _Stub:
    """Stands in for a class of MXNet's in a real unpickling."""

    def __init__(self, *args):
        assert args in [(), (None,)]

    def __setstate__(self, state):
        self.__dict__.update(state)


class _Array(_Stub):
    def __reduce__(self):
        return type(self), (None,), vars(self)


@pytest.fixture
def stubs(monkeypatch):
    for module, names in {
        "mxnet.ndarray.ndarray": ["NDArray"],
        "mxnet.optimizer.optimizer": ["FTML"],
        "mxnet.optimizer.ftml": ["FTML"],
        "mxnet.lr_scheduler": ["FactorScheduler"],
    }.items():
        stub = types.ModuleType(module)
        for name in names:
            base = _Array if name == "NDArray" else _Stub
            setattr(stub, name, type(name, (base,), {"__module__": module}))
        monkeypatch.setitem(sys.modules, module, stub)
    for package in ("mxnet", "mxnet.ndarray", "mxnet.optimizer"):
        if package not in sys.modules:
            monkeypatch.setitem(sys.modules, package, types.ModuleType(package))


def _plain(value):
    """Returns what was unpickled as dicts and tuples."""
    if isinstance(value, _Stub):
        name = f"{type(value).__module__}.{type(value).__name__}"
        return name, _plain(vars(value))
    if isinstance(value, dict):
        return {key: _plain(x) for key, x in value.items()}
    if isinstance(value, tuple):
        return tuple(map(_plain, value))
    return value


@pytest.mark.usefixtures("stubs")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("version", [1, 2])
def test_python_unpickles_our_file_as_it_does_mxnets(tmp_path, version, kind):
    path = FILES / f"{version}_{kind}_100_trainer.states"
    expected = _plain(pickle.loads(path.read_bytes()))
    mxnet.save_states(tmp_path / "ours", mxnet.load_states(path))
    found = _plain(pickle.loads((tmp_path / "ours").read_bytes()))
    assert repr(found[0]) == repr(expected[0])
    (name, fields), (expected_name, expected_fields) = found[1], expected[1]
    assert name == expected_name
    fields["lr_scheduler"][1]["base_lr"] = pytest.approx(0.01)
    assert fields.pop("lr") is None
    assert expected_fields.pop("lr") == 0.02
    assert fields.pop("allow_np_array") is True
    assert expected_fields.pop("allow_np_array") is (version == 2)
    assert fields == expected_fields


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


def test_states_survive_writing_and_reading(tmp_path):
    schedulers = [
        mxnet.FactorScheduler(5, 0.5, base_lr=0.2, warmup_steps=3),
        mxnet.MultiFactorScheduler([3, 8], 0.5, warmup_mode="constant"),
        mxnet.PolyScheduler(30, pwr=3, final_lr=1e-4),
        mxnet.CosineScheduler(40, base_lr=0.3, warmup_begin_lr=0.1),
        None,
    ]
    slots = {
        7: mxnet.FtmlSlots(*np.random.default_rng(0).random((3, 2, 3))),
        "fc_bias": mxnet.FtmlSlots(*np.ones((4, 1), np.float32)),
        "empty": mxnet.FtmlSlots(*np.ones((3, 0, 2), np.float16)),
        "scalar": mxnet.FtmlSlots(*[np.array(1.5)] * 3),
    }
    for scheduler in schedulers:
        options = {
            "learning_rate": 0.3 if scheduler is None else None,
            "beta1": 0.5,
            "beta2": 0.9,
            "epsilon": 1e-6,
            "rescale_grad": 0.5,
            "clip_gradient": None,
            "wd": 0.1,
            "begin_num_update": 2,
            "multi_precision": True,
            "order": "1.x",
            "lr_mult": {7: 2.0},
            "wd_mult": {"fc_bias": 0.0},
        } | ({} if scheduler is None else {"lr_scheduler": scheduler})
        states = mxnet.UpdaterStates(slots, 12, options)
        mxnet.save_states(tmp_path / "file", states)
        loaded = mxnet.load_states(tmp_path / "file")
        assert loaded[1:] == states[1:]
        assert list(loaded.slots) == list(slots)
        jax.tree.map(
            np.testing.assert_array_equal,
            list(loaded.slots.values()),
            list(slots.values()),
        )
        mxnet.save_states(tmp_path / "file", states._replace(options=None))
        loaded = mxnet.load_states(tmp_path / "file")
        assert loaded[1:] == (None, None)
        assert list(loaded.slots) == list(slots)
        jax.tree.map(
            np.testing.assert_array_equal,
            list(loaded.slots.values()),
            list(slots.values()),
        )


def test_a_finished_schedule_stays_finished(tmp_path):
    """Beyond max_update MXNet returns what it finds as base_lr."""
    options = {
        "learning_rate": None,
        "lr_scheduler": mxnet.PolyScheduler(10, base_lr=0.5, final_lr=0.125),
    }
    slots = {0: mxnet.FtmlSlots(*np.ones((3, 1), np.float32))}
    for num_update, base_lr in [(9, 0.5), (10, 0.125), (11, 0.125)]:
        states = mxnet.UpdaterStates(slots, num_update, options)
        mxnet.save_states(tmp_path / "file", states)
        scheduler = mxnet.load_states(tmp_path / "file").options["lr_scheduler"]
        assert scheduler.base_lr == base_lr
        assert scheduler(8) == options["lr_scheduler"](8)
    other = options | {"lr_scheduler": optax.cosine_decay_schedule(0.1, 10)}
    for refused, match in [
        (states._replace(options=other), "one of MXNet's"),
        (states._replace(num_update=None), "how many updates"),
    ]:
        with pytest.raises(ValueError, match=match):
            mxnet.save_states(tmp_path / "file", refused)


DTYPES = ["float16", "float32", "float64", "uint8", "int8", "int32", "int64"]


def test_reads_every_dtype_and_form():
    for name in ("1_named.params", "1_unnamed.params", "2_dtypes.npz"):
        arrays = mxnet.load_params(FILES / name)
        if isinstance(arrays, list):
            arrays = dict(zip(DTYPES, arrays, strict=True))
        if name == "2_dtypes.npz":
            assert arrays.pop("scalar") == np.float32(2.5)
        assert list(arrays) == DTYPES
        for dtype, array in arrays.items():
            assert array.dtype == dtype
            np.testing.assert_array_equal(array, [[1, 2, 3]])
            array += 1  # is writable, and no part of the file
    scalar, empty = mxnet.load_params(FILES / "2_np_shape.params")
    assert scalar == np.float32(2.5)
    assert empty.shape == (0, 3)


@pytest.mark.parametrize("version", ["V1", "without magic"])
def test_reads_headers_of_old_versions(tmp_path, version):
    array = np.arange(6, dtype=np.float64).reshape(2, 3)
    if version == "V1":
        header = struct.pack("<Iiqq", 0xF993FAC8, 2, 2, 3)
    else:
        header = struct.pack("<III", 2, 2, 3)
    path = tmp_path / "old.params"
    path.write_bytes(
        struct.pack("<QQQ", 0x112, 0, 1)
        + header
        + struct.pack("<iii", 2, 0, 1)  # saved on a GPU, float64
        + array.tobytes()
        + struct.pack("<Q", 0)
    )
    (found,) = mxnet.load_params(path)
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


def test_parameters_survive_writing_and_reading(tmp_path):
    arrays = {
        "arg:weight": jnp.ones((2, 3), jnp.bfloat16),
        "gewicht-äöü": np.arange(3, dtype=np.uint16),
        "scalar": np.float64(3),
    }
    mxnet.save_params(tmp_path / "file", arrays)
    loaded = mxnet.load_params(tmp_path / "file")
    jax.tree.map(np.testing.assert_array_equal, loaded, arrays)
    assert loaded["arg:weight"].dtype == jnp.bfloat16
    mxnet.save_params(tmp_path / "file", list(arrays.values()))
    assert len(mxnet.load_params(tmp_path / "file")) == 3
    with pytest.raises(ValueError, match="no dtype complex64"):
        mxnet.save_params(tmp_path / "file", [np.ones(1, np.complex64)])


def test_sparse_arrays_are_refused():
    for name, entry in {
        "1_csr.params": "array 1 .*csr",
        "1_row_sparse.params": "array 1 .*row_sparse",
        "2_sparse.npz": "entry 'sparse' .*sparse",
    }.items():
        with pytest.raises(ValueError, match=f"{name}.*{entry}"):
            mxnet.load_params(FILES / name)


def test_states_of_transposed_parameters():
    states = mxnet.load_states(FILES / "2_plain_100_trainer.states")
    loaded = mxnet.load_params(FILES / "2_plain_100.params")
    params = {
        "hidden": {"kernel": loaded["0.weight"].T, "bias": loaded["0.bias"]},
        "output": {"kernel": loaded["1.weight"].T, "bias": loaded["1.bias"]},
    }
    paths = {
        0: "hidden/bias",
        1: "hidden/kernel",
        2: "output/bias",
        3: "output/kernel",
    }
    axes = {"hidden/kernel": (1, 0), "output/kernel": (1, 0)}
    init = mxnet.ftml(**states.options).init(params)
    state = mxnet.state_from_mxnet(states, init, params, paths, axes=axes)
    (v,) = optax.tree_utils.tree_get_all_with_path(state, "v")[0][1:]
    np.testing.assert_array_equal(v["hidden"]["kernel"], states.slots[1].v.T)
    assert jax.tree.structure(state) == jax.tree.structure(init)
    back = mxnet.state_to_mxnet(state, params, paths, states.options, axes=axes)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7),
        back.slots,
        states.slots,
    )
    with pytest.raises(ValueError, match=r"'hidden/kernel'.*axes"):
        mxnet.state_from_mxnet(states, init, params, paths)


def test_leader_form_goes_on_like_the_delta_form():
    params = mxnet.load_params(FILES / "2_plain_100.params")
    states = mxnet.load_states(FILES / "2_plain_100_trainer.states")
    free = optax_ftml.prox.box(-np.inf, np.inf)
    ends = []
    for prox in (None, free):
        optimizer = optax_ftml.ftml(0.01, prox=prox)
        state = mxnet.state_from_mxnet(
            states, optimizer.init(params), params, NAMES
        )
        back = mxnet.state_to_mxnet(
            state, params, NAMES, {"learning_rate": 0.01}
        )
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-5, atol=1e-6),
            back.slots,
            states.slots,
        )
        ends.append(_train(optimizer, params, state)[0])
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), *ends
    )


def _replaced(states, key, **fields):
    slots = {**states.slots, key: states.slots[key]._replace(**fields)}
    return states._replace(slots=slots)


def test_states_that_do_not_fit_are_refused():
    params = mxnet.load_params(FILES / "2_plain_100.params")
    states = mxnet.load_states(FILES / "2_plain_100_trainer.states")
    mixed = mxnet.load_states(FILES / "2_multi_precision_100_trainer.states")
    init = mxnet.ftml().init(params)
    leader_init = optax_ftml.ftml(prox=optax_ftml.prox.l1(0.1)).init(params)
    swapped = {**NAMES, 0: "1.bias", 2: "0.bias"}
    nan = np.full(4, np.nan, np.float32)
    for error, arguments in {
        "no.*for \\[3\\]": (states, init, params, {0: "a", 1: "b", 2: "c"}),
        "different values": (states, init, params, {**NAMES, 1: "0.bias"}),
        "got \\['x'\\].*0.bias": (states, init, params, {**NAMES, 3: "x"}),
        "num_update": (states._replace(num_update=None), init, params, NAMES),
        "shape": (states, init, params, swapped),
        "'0.bias'.*away": (_replaced(states, 0, z=nan), init, params, NAMES),
        "'0.weight'.*away": (
            states,
            init,
            {**params, "0.weight": 1 + params["0.weight"]},
            NAMES,
        ),
        "multi_precision": (mixed, init, params, NAMES),
        "none for '1.weight'": (
            states._replace(slots={k: states.slots[k] for k in (0, 1, 2)}),
            init,
            params,
            NAMES,
        ),
        "none of \\['1.bias', '1.weight'\\]": (
            states,
            mxnet.ftml().init({n: params[n] for n in ("0.bias", "0.weight")}),
            params,
            NAMES,
        ),
        "beta2 and epsilon": (
            states._replace(options=None),
            leader_init,
            params,
            NAMES,
        ),
        "one learning rate": (
            _replaced(
                states, 0, d=2 * states.slots[0].d, z=2 * states.slots[0].z
            ),
            leader_init,
            params,
            NAMES,
        ),
    }.items():
        with pytest.raises(ValueError, match=error):
            mxnet.state_from_mxnet(*arguments)
    for paths in ({0: "0.bias"}, {**NAMES, 9: "0.bias"}, {0: "nowhere"}):
        with pytest.raises(ValueError, match="paths must"):
            mxnet.state_to_mxnet(init, params, paths, {})
