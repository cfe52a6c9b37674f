"""Runs the notebooks and checks what is committed of them.

    python notebooks/run.py                 check all, in fast mode, as CI does
    python notebooks/run.py quickstart      check one
    python notebooks/run.py --full NAME     run in full, write the outputs

The check runs a copy of each notebook in a temporary directory, which leaves
the repository as it was, and fails if a cell raises, writes to standard error,
prints a warning or an absolute path, or if the committed outputs are not those
of a full run of the committed code: another kind of output than the run gave, a
cell edited or run out of order since.
"""

import argparse
import hashlib
import os
import pathlib
import re
import shutil
import sys
import tempfile
import time

import nbclient
import nbformat

HERE = pathlib.Path(__file__).resolve().parent
NAMES = [
    path.stem
    for name in (
        "quickstart",
        "constraints",
        "what_ftml_is",
        "paper_experiments",
        "online_and_sparse",
        "flights",
        "is_it_fused",
    )
    if (path := HERE / f"{name}.ipynb").exists()
]
ABSOLUTE_PATH = re.compile(
    r"(?<![\w./:])(/(bin|data|etc|home|lib|mnt|opt|private|proc|root|srv|tmp"
    r"|Users|usr|var|work|workspace)/|[A-Za-z]:\\)"
)
# What the CUDA plugin of the aot extra says, unasked, where there is no GPU.
NO_GPU = re.compile(
    r"WARNING: All log messages before absl::InitializeLog\(\) is called"
    r"|I\d{4} .*cudart_stub\.cc.*Could not find cuda drivers|$"
)
WARNING = re.compile(r"\w*Warning\b|^W\d{4} |\[W ", re.MULTILINE)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--full", action="store_true")
    arguments = parser.parse_args()
    # Kernels inherit these: the CPU alone, and no chatter from C++.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["FTML_NOTEBOOKS_FAST"] = "0" if arguments.full else "1"
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    run = run_in_full if arguments.full else check
    faults = []
    for name in arguments.names or NAMES:
        start = time.monotonic()
        found = [f"{name}: {fault}" for fault in run(name)]
        seconds = time.monotonic() - start
        print(f"{name}: {len(found)} faults, {seconds:.0f} s", flush=True)
        faults += found
    print("\n".join(faults), file=sys.stderr)
    sys.exit(bool(faults))


def run_in_full(name):
    path = HERE / f"{name}.ipynb"
    notebook = execute(nbformat.read(path, as_version=4), HERE)
    for cell in code_cells(notebook):
        cell.metadata["source_sha256"] = source_hash(cell)
    nbformat.write(notebook, path)
    return list(faults_of(notebook))


def check(name):
    committed = nbformat.read(HERE / f"{name}.ipynb", as_version=4)
    yield from (f"committed: {fault}" for fault in faults_of(committed))
    for cell in code_cells(committed):
        if cell.metadata.get("source_sha256") != source_hash(cell):
            yield f"{cell.id}: edited since its full run"
    with tempfile.TemporaryDirectory() as directory:
        shutil.copy(HERE / "helpers.py", directory)
        fresh = execute(nbformat.from_dict(committed.copy()), directory)
        for figure in pathlib.Path(directory, "figures").glob("*.png"):
            if not (HERE / "figures" / figure.name).exists():
                yield f"figures/{figure.name} is not committed"
    yield from (f"fast run: {fault}" for fault in faults_of(fresh))
    for old, new in zip(code_cells(committed), code_cells(fresh), strict=True):
        if shape(old) != shape(new):
            yield f"{old.id}: committed {shape(old)}, the run gave {shape(new)}"


def execute(notebook, directory):
    notebook = nbformat.from_dict(notebook)
    client = nbclient.NotebookClient(
        notebook,
        allow_errors=True,
        coalesce_streams=True,
        extra_arguments=["--IPKernelApp.log_level=ERROR"],
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(directory)}},
        timeout=3600,
    )
    client.execute()
    for cell in code_cells(notebook):
        cell.outputs = [
            output
            for output in cell.outputs
            if not (
                output.get("name") == "stderr"
                and all(map(NO_GPU.match, output.text.splitlines()))
            )
        ]
    notebook.metadata = {
        "kernelspec": {
            "display_name": "Python 3",
            "language": "python",
            "name": "python3",
        },
        "language_info": {"name": "python"},
    }
    return notebook


def faults_of(notebook):
    cells = code_cells(notebook)
    counts = [cell.execution_count for cell in cells]
    if counts != list(range(1, len(cells) + 1)):
        yield f"execution counts {counts}, not in order from 1"
    for cell in cells:
        for output in cell.outputs:
            text = text_of(output)
            if output.output_type == "error":
                yield f"{cell.id}: {output.ename}: {output.evalue}"
            elif output.get("name") == "stderr":
                yield f"{cell.id}: standard error: {text[:500]}"
            elif found := WARNING.search(text):
                yield f"{cell.id}: a warning: {found.group()}"
            if found := ABSOLUTE_PATH.search(text):
                context = text[max(0, found.start() - 40) : found.end() + 40]
                yield f"{cell.id}: an absolute path: {context!r}"


def shape(cell):
    """Returns the kinds of a cell's outputs."""
    return [
        output.get("name") or "+".join(sorted(output.get("data", {})))
        for output in cell.outputs
    ]


def text_of(output):
    parts = [output.get("text", "")]
    for kind, value in output.get("data", {}).items():
        if kind.startswith("text/"):
            parts.append(value)
    parts += output.get("traceback", [])
    return "\n".join(parts)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def source_hash(cell):
    return hashlib.sha256(cell.source.encode()).hexdigest()


if __name__ == "__main__":
    main()
