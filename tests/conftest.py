"""Fixtures that several test modules use."""

import hypothesis
import jax
import pytest

hypothesis.settings.register_profile("full", deadline=None, max_examples=2000)
hypothesis.settings.register_profile(
    "fast", deadline=None, max_examples=20, derandomize=True
)
hypothesis.settings.load_profile("fast")


@pytest.fixture
def x64():
    """Enables float64 for one test."""
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)
