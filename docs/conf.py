"""The site's settings. Nothing here, and no page, needs a network.

The environment variable DOCS_VERSION says which folder of the whole site this
build is for, and adds the switcher: see versions.py.
"""

import os
import pathlib
import sys

import optax_ftml

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE / "_extensions"))

project = "optax-ftml"
author = "The optax-ftml authors"
copyright = author
version = release = os.environ.get("DOCS_VERSION") or optax_ftml.__version__

extensions = [
    "external_references",
    "llms_txt",
    "myst_nb",
    "notebook_pages",
    "sphinx-mathjax-offline",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
default_role = "code"  # of single backticks in docstrings
exclude_patterns = ["_build"]
maximum_signature_line_length = 60

autodoc_class_signature = "separated"  # the fields follow as a list
autodoc_default_options = {"exclude-members": "__init__, __new__"}
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "none"
napoleon_attr_annotations = False
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False

myst_enable_extensions = ["amsmath", "colon_fence", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"
nb_render_markdown_format = "myst"  # of outputs, which have tables
suppress_warnings = ["mystnb.unknown_mime_type"]

copybutton_exclude = ".linenos, .gp, .go"
html_theme = "sphinx_book_theme"
html_title = "optax-ftml"
html_baseurl = "https://optax-ftml.github.io/optax-ftml/stable/"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_theme_options = {
    "repository_url": "https://github.com/optax-ftml/optax-ftml",
    "navbar_persistent": [],
    "path_to_docs": "docs",
    "show_navbar_depth": 1,
    "use_download_button": False,
    "use_repository_button": True,
}
html_sidebars = {
    "**": [
        "navbar-logo.html",
        "icon-links.html",
        "search-button-field.html",
        "sbt-sidebar-nav.html",
    ]
}
if "DOCS_VERSION" in os.environ:
    html_sidebars["**"].insert(1, "version-switcher.html")
    html_theme_options |= {
        "check_switcher": False,
        "switcher": {"json_url": "../versions.json", "version_match": release},
        "show_version_warning_banner": True,
    }
