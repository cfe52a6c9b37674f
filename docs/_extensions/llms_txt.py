"""Writes llms.txt, the table of contents for programs that read the site.

Its form is that of https://llmstxt.org: the name, what the package is, and a
list of links for each caption of the table of contents, each page with its
first sentence.
"""

import pathlib
import re

from docutils import nodes
from sphinx import addnodes


def write(app, exception):
    """Writes the file beside the pages."""
    if exception or app.builder.format != "html":
        return
    home = app.env.get_doctree(app.config.root_doc)
    lines = [
        f"# {app.config.project}",
        "",
        f"> {_first_sentence(home)}",
        "",
        "The Markdown of a page is at `_sources/PAGE.md.txt`.",
    ]
    for toctree in home.findall(addnodes.toctree):
        lines += ["", f"## {toctree['caption']}", ""]
        for _, name in toctree["entries"]:
            lines += _links(app, name)
    path = pathlib.Path(app.outdir, "llms.txt")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _links(app, name):
    """Yields a line for a page and for each page below it."""
    doctree = app.env.get_doctree(name)
    title = app.env.titles[name].astext()
    url = app.config.html_baseurl + app.builder.get_target_uri(name)
    sentence = _first_sentence(doctree)
    yield f"- [{title}]({url})" + (f": {sentence}" if sentence else "")
    for toctree in doctree.findall(addnodes.toctree):
        for _, below in toctree["entries"]:
            yield from _links(app, below)


def _first_sentence(doctree):
    """Returns the first sentence of a page's text, or an empty string."""
    for paragraph in doctree.findall(nodes.paragraph):
        text = " ".join(paragraph.astext().split())
        if text != "Open in Colab":
            return re.match(r".+?(?:[.?](?= |$)|$)", text)[0]
    return ""


def setup(app):
    """Writes the file when the pages are there."""
    app.connect("build-finished", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
