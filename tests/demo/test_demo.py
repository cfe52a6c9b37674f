"""The demo, from its command line."""

import re

import pytest

from optax_ftml import __main__

ROW = re.compile(r"^(\w+) +([\d.]+)% +([\d.]+) +([\d.]+) +([\d.]+)$", re.M)


def run(capsys, *arguments):
    """Returns the table's rows by optimizer, and all that was printed."""
    assert __main__.main(["demo", *map(str, arguments)]) == 0
    printed = capsys.readouterr()
    rows = {
        name: [float(value) for value in values]
        for name, *values in ROW.findall(printed.out)
    }
    return rows, printed


def test_learns_and_repeats(tmp_path, capsys):
    arguments = ["--epochs", 10, "--seed", 3, "--output-dir", tmp_path]
    first, printed = run(capsys, *arguments, "--optimizers", "ftml", "adam")
    second, _ = run(capsys, *arguments, "--optimizers", "ftml")
    assert list(first) == ["ftml", "adam"]
    assert first["ftml"][0] >= 96
    assert first["ftml"][1] < 0.1
    assert first["ftml"][2] == 4
    assert first["adam"][2] == 8
    assert first["ftml"][:3] == second["ftml"][:3]  # All but the time.
    plot = tmp_path / "loss.png"
    assert str(plot) in printed.out
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert "loss=" in printed.err  # The progress bar.


def test_learning_rate_and_batch_size_matter(tmp_path, capsys):
    usual, _ = run(
        capsys, "--epochs", 1, "--optimizers", "ftml", "--output-dir", tmp_path
    )
    slower, _ = run(
        capsys,
        "--epochs",
        1,
        "--optimizers",
        "ftml",
        "--learning-rate",
        1e-5,
        "--output-dir",
        tmp_path,
    )
    fewer, _ = run(
        capsys,
        "--epochs",
        1,
        "--optimizers",
        "ftml",
        "--batch-size",
        512,
        "--output-dir",
        tmp_path,
    )
    assert slower["ftml"][1] > usual["ftml"][1]
    assert fewer["ftml"][1] > usual["ftml"][1]


def test_help_explains_every_option(capsys):
    with pytest.raises(SystemExit) as info:
        __main__.main(["demo", "--help"])
    assert info.value.code == 0
    text = capsys.readouterr().out
    for option in (
        "--epochs",
        "--batch-size",
        "--learning-rate",
        "--seed",
        "--optimizers",
        "--output-dir",
    ):
        assert re.search(rf"{option} .+\s+\w+", text)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--epochs", "0"], ("--epochs", "at least 1", "0")),
        (["--batch-size", "5000"], ("--batch-size", "1437", "5000")),
        (["--optimizers", "magic"], ("--optimizers", "magic", "ftml")),
        (["--learning-rate", "-1"], ("--learning-rate", "at least 0", "-1")),
        (["--learning-rate", "nan"], ("--learning-rate", "at least 0", "nan")),
        (["--seed", "-1"], ("--seed", "at least 0", "-1")),
    ],
)
def test_bad_options(arguments, words, capsys):
    with pytest.raises(SystemExit) as info:
        __main__.main(["demo", *arguments])
    assert info.value.code != 0
    text = capsys.readouterr().err + str(info.value)
    for word in words:
        assert word in text


def test_unknown_command(capsys):
    with pytest.raises(SystemExit):
        __main__.main(["dem"])
    assert "demo" in capsys.readouterr().err
