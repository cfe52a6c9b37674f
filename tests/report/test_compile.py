"""Errors before and from a compiler. With the compilers: tests/aot."""

import jax
import jax.numpy as jnp
import optax
import pytest

import optax_ftml

PARAMS = jax.ShapeDtypeStruct((8,), jnp.float32)


def test_unknown_target_names_the_known_ones():
    with pytest.raises(ValueError, match=r"'h100'.*tpu:v5e:2x2.*got 'h1000'"):
        optax_ftml.fusion_report(optax.sgd(0.1), PARAMS, "h1000")


@pytest.mark.parametrize(
    ("target", "compiler"), [("h100", "jax_cuda"), ("tpu:v5e:2x2", "libtpu")]
)
def test_missing_compiler_names_the_extra(target, compiler, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=rf"{compiler}.*optax-ftml\[aot\]"):
        optax_ftml.fusion_report(optax.sgd(0.1), PARAMS, target)


def test_compiler_that_crashes_is_quoted(monkeypatch, tmp_path):
    compiler = tmp_path / "python"
    compiler.write_text("#!/bin/sh\necho 'Check failed: x' >&2\nkill -6 $$")
    compiler.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(compiler))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    monkeypatch.setattr("jax.export.Exported.serialize", lambda self: b"")
    with pytest.raises(
        RuntimeError, match=r"'tpu:v5e:2x2'.*status -6.*\n.*failed: x"
    ):
        optax_ftml.fusion_report(optax.sgd(0.1), PARAMS, "tpu:v5e:2x2")
