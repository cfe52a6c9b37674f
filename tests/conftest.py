"""Fixtures that several test modules use."""

import gc

import hypothesis
import jax
import pytest

# Before JAX starts: tests of sharding need eight devices.
jax.config.update("jax_num_cpu_devices", 8)

hypothesis.settings.register_profile("full", deadline=None, max_examples=2000)
hypothesis.settings.register_profile(
    "fast", deadline=None, max_examples=10, derandomize=True
)
hypothesis.settings.load_profile("fast")


@pytest.fixture
def x64():
    """Enables float64 for one test."""
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


@pytest.fixture
def eight_devices():
    """Skips a test of sharding where the default device is not a CPU."""
    if jax.device_count() < 8:
        pytest.skip("needs eight devices: set JAX_PLATFORMS=cpu")


@pytest.fixture
def strict():
    """Turns on JAX's strict settings: an error names the one that raised it."""
    # The check of leaks collects garbage after each trace, and takes a second
    # each time where it looks at all that the tests before have left.
    gc.collect()
    gc.freeze()
    with (
        jax.numpy_dtype_promotion("strict"),
        jax.numpy_rank_promotion("raise"),
        jax.debug_nans(True),
        jax.debug_infs(True),
        jax.checking_leaks(),
    ):
        yield
    gc.unfreeze()
