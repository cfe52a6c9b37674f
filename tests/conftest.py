"""Fixtures that several test modules use."""

import jax
import pytest


@pytest.fixture
def x64():
    """Enables float64 for one test."""
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)
