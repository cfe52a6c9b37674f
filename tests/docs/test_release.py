"""The check of a release, and the site's folders and links."""

import json
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]
FILES = {
    "optax_ftml/__init__.py": '"""FTML."""\n__version__ = "1.2.0"\n',
    "CITATION.cff": "cff-version: 1.2.0\nversion: 1.2.0\n"
    "date-released: 2027-03-01\n",
    "CHANGELOG.md": "# Changelog\n\n## 1.2.0 (2027-03-01)\n\n"
    "- New, in\n  two lines.\n- More.\n\n## 1.1.0 (2027-01-01)\n\n- Old.\n",
}


def run(script, *args, cwd=ROOT):
    command = [sys.executable, ROOT / script, *args]
    return subprocess.run(command, capture_output=True, cwd=cwd, text=True)


def test_release_prints_what_is_new_or_what_disagrees(tmp_path):
    def release(tag="v1.2.0", **changes):
        for path, text in FILES.items():
            old, new = changes.get(pathlib.Path(path).stem, ("", ""))
            (tmp_path / path).parent.mkdir(exist_ok=True)
            (tmp_path / path).write_text(text.replace(old, new))
        return run(".ci/release.py", tag, cwd=tmp_path)

    assert release().stdout == "- New, in two lines.\n- More.\n"
    for done, where in [
        (release("v1.3.0"), "the tag has"),
        (release(CITATION=("\nversion: 1.2", "\nversion: 1.1")), "CITATION"),
        (release(CITATION=("date-released: 2027", "")), "CITATION.*no line"),
        (release(CHANGELOG=("2027-03-01", "2027-03-02")), "CHANGELOG.md has"),
        (release(CHANGELOG=("2027-03-01", "unreleased")), "CHANGELOG.md has"),
        (release(__init__=("1.2.0", "1.2.0.dev0")), "the tag has"),
    ]:
        assert done.returncode == 1
        assert re.match(where, done.stderr)


def test_site_has_a_folder_for_each_version(tmp_path):
    site, html = tmp_path / "site", tmp_path / "html"
    html.mkdir()
    stable = []
    for name in ("latest", "0.9.0", "0.10.0", "0.9.1", "latest"):
        (html / "index.html").write_text(name)
        run("docs/versions.py", html, site, name)
        stable.append((site / "stable" / "index.html").read_text())
    assert stable == ["latest", "0.9.0", "0.10.0", "0.10.0", "0.10.0"]
    assert (site / "0.9.0" / "index.html").read_text() == "0.9.0"
    listed = json.loads((site / "versions.json").read_text())
    versions = [entry["version"] for entry in listed]
    assert versions == ["latest", "0.10.0", "0.9.1", "0.9.0"]
    assert ["preferred" in entry for entry in listed] == [0, 1, 0, 0]


def test_links(tmp_path):
    right = ["index.html", "#here", "index.html#here", "https://example.com/"]
    links = [f'<a href="{link}">' for link in [*right, "#there", "other.html"]]
    (tmp_path / "index.html").write_text('<p id="here">' + "".join(links))
    readme = tmp_path / "README.md"
    site = "https://optax-ftml.github.io/optax-ftml/stable"
    readme.write_text(f"[1]({site}/index.html#here) [2]({site}/another.html)")
    done = run("docs/check_links.py", tmp_path, readme)
    assert done.returncode == 1
    assert done.stdout == "https://example.com/\n"
    broken = ["README.md: another", "index.html: #there", "index.html: other"]
    for line, start in zip(done.stderr.splitlines()[1:], broken, strict=True):
        assert line.startswith(start)
