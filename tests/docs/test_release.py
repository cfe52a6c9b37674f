"""The check of a release, the oldest versions, the site's folders and links."""

import importlib.util
import json
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
FILES = {
    "optax_ftml/__init__.py": '"""FTML."""\n__version__ = "1.2.0"\n',
    "CITATION.cff": "cff-version: 1.2.0\nversion: 1.2.0\n"
    "date-released: 2027-03-01\n",
    "CHANGELOG.md": "# Changelog\n\n## 1.2.0 (2027-03-01)\n\n"
    "- New, in\n  two lines.\n- More.\n\n## 1.1.0 (2027-01-01)\n\n- Old.\n",
}


def _check(folder, tag, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return subprocess.run(
        [sys.executable, ROOT / ".ci" / "release.py", tag],
        capture_output=True,
        check=False,
        cwd=folder,
        text=True,
    )


def test_release_prints_what_is_new(tmp_path):
    done = _check(tmp_path, "v1.2.0", FILES)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "- New, in two lines.\n- More.\n"


@pytest.mark.parametrize(
    ("tag", "name", "old", "new"),
    [
        ("v1.3.0", "CITATION.cff", "", ""),
        ("1.2.0", "CITATION.cff", "", ""),
        ("v1.2.0", "CITATION.cff", "\nversion: 1.2.0", "\nversion: 1.1.0"),
        ("v1.2.0", "CITATION.cff", "date-released: 2027-03-01\n", ""),
        ("v1.2.0", "CHANGELOG.md", "2027-03-01", "2027-03-02"),
        ("v1.2.0", "CHANGELOG.md", "2027-03-01", "unreleased"),
        ("v1.2.0", "optax_ftml/__init__.py", "1.2.0", "1.2.0.dev0"),
    ],
)
def test_release_is_refused(tmp_path, tag, name, old, new):
    files = {**FILES, name: FILES[name].replace(old, new)}
    done = _check(tmp_path, tag, files)
    assert done.returncode == 1
    assert "CHANGELOG.md" in done.stderr or "has" in done.stderr


def test_oldest_versions():
    done = subprocess.run(
        [sys.executable, ROOT / ".ci" / "oldest.py"],
        capture_output=True,
        check=True,
        cwd=ROOT,
        text=True,
    )
    names = re.findall(r"^(\w+)==[\d.]+$", done.stdout, re.MULTILINE)
    assert names == ["jax", "jaxlib", "optax"]


def test_site_has_a_folder_for_each_version(tmp_path):
    path = ROOT / "docs" / "versions.py"
    spec = importlib.util.spec_from_file_location("versions", path)
    versions = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(versions)
    site = tmp_path / "site"
    for name in ("latest", "0.9.0", "0.10.0", "0.9.1", "latest"):
        html = tmp_path / "html"
        html.mkdir(exist_ok=True)
        (html / "index.html").write_text(name)
        versions.add(html, site, name)
        if not (site / "0.9.0").exists():
            assert (site / "stable" / "index.html").read_text() == "latest"
    assert (site / "stable" / "index.html").read_text() == "0.10.0"
    assert (site / "0.9.0" / "index.html").read_text() == "0.9.0"
    listed = json.loads((site / "versions.json").read_text())
    assert [entry["version"] for entry in listed] == [
        "latest",
        "0.10.0",
        "0.9.1",
        "0.9.0",
    ]
    assert [entry["version"] for entry in listed if "preferred" in entry] == [
        "0.10.0"
    ]


@pytest.mark.parametrize(
    ("link", "lead_somewhere"),
    [
        ("index.html", True),
        ("#here", True),
        ("index.html#here", True),
        ("https://example.com/", True),
        ("#there", False),
        ("other.html", False),
        ("https://optax-ftml.github.io/optax-ftml/stable/other.html", False),
    ],
)
def test_links(tmp_path, link, lead_somewhere):
    script = [sys.executable, ROOT / "docs" / "check_links.py"]
    page = tmp_path / "index.html"
    page.write_text(f'<p id="here"><a href="{link}">')
    done = subprocess.run([*script, tmp_path, page], check=False)
    assert done.returncode == (0 if lead_somewhere else 1)
