"""The notebooks as pages, with a thumbnail each and links from the API.

The notebooks are copied beside the pages with the outputs of their run. A
thumbnail is a picture of theirs. A function's documentation ends with links to
the notebooks and examples that use it, as their code says.
"""

import base64
import json
import pathlib
import re
import shutil

ROOT = pathlib.Path(__file__).parents[2]
SOURCE = "https://github.com/optax-ftml/optax-ftml/blob/main/"
# The order is that of the gallery.
NOTEBOOKS = [
    "quickstart",
    "constraints",
    "what_ftml_is",
    "online_and_sparse",
    "flights",
    "paper_experiments",
    "is_it_fused",
]


def copy(app):
    """Copies what has changed, so that no other page is built again."""
    target = pathlib.Path(app.srcdir, "notebooks")
    (target / "thumbnails").mkdir(parents=True, exist_ok=True)
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        copied = target / path.name
        if not copied.exists() or copied.read_bytes() != path.read_bytes():
            shutil.copy(path, copied)
            picture = target / "thumbnails" / f"{path.stem}.png"
            picture.write_bytes(_picture(path))


def _picture(path):
    """Returns the first picture among a notebook's outputs."""
    for cell in json.loads(path.read_text())["cells"]:
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                return base64.b64decode(output["data"]["image/png"])
    raise ValueError(f"{path} shows no picture")


def link(app, what, name, obj, options, lines):
    """Adds to a docstring where the function is used."""
    del app, obj, options
    if what != "function":
        return
    module, _, attribute = name.rpartition(".")
    used = re.compile(rf"\b{module.rpartition('.')[2]}\.{attribute}\b")
    links = [
        f":doc:`{stem} </notebooks/{stem}>`"
        for stem in NOTEBOOKS
        if used.search(_code(ROOT / "notebooks" / f"{stem}.ipynb"))
    ] + [
        f"`{path.name} <{SOURCE}examples/{path.name}>`__"
        for path in sorted((ROOT / "examples").glob("*.py"))
        if used.search(path.read_text())
    ]
    if links:
        lines += ["", ".. rubric:: Shown in", "", ", ".join(links)]


def _code(path):
    """Returns the code of a notebook, or nothing where it is not here."""
    if not path.exists():
        return ""
    return "\n".join(
        "".join(cell["source"])
        for cell in json.loads(path.read_text())["cells"]
        if cell["cell_type"] == "code"
    )


def setup(app):
    """Copies before the pages are read; links after Napoleon's work."""
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("builder-inited", copy)
    app.connect("autodoc-process-docstring", link, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
