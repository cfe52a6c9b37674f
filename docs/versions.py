"""Puts a built version of the site into its folder of the whole site.

    DOCS_VERSION=0.1.0 sphinx-build docs html
    python docs/versions.py html site 0.1.0

The whole site has one folder per version, `latest` for the main branch, and
`stable`, a copy of the newest release (of `latest` before the first). Its
versions.json is what the switcher in the sidebar reads. An address without a
version leads to `stable`.
"""

import json
import pathlib
import re
import shutil
import sys

BASE = "/optax-ftml/"  # where the site is served
RELEASE = re.compile(r"\d+(\.\d+)+")
REDIRECT = """<!doctype html>
<meta charset="utf-8">
<title>optax-ftml</title>
<script>
  const page = location.pathname.replace("{base}", "");
  location.replace(
    "{base}stable/" + (page.startsWith("stable/") ? "" : page) + location.hash
  );
</script>
<a href="{base}stable/">optax-ftml</a>
"""


def add(html, site, version):
    """Adds one version, and brings `stable` and the list up to date."""
    replace(site / version, html)
    releases = sorted(
        (path.name for path in site.iterdir() if RELEASE.fullmatch(path.name)),
        key=lambda name: [int(number) for number in name.split(".")],
        reverse=True,
    )
    stable = releases[0] if releases else "latest"
    replace(site / "stable", site / stable)
    versions = [entry(name, name) for name in releases]
    if releases:
        name = f"{stable} (stable)"
        versions[0] = entry(stable, "stable", name=name, preferred=True)
    if (site / "latest").exists():
        versions.insert(0, entry("latest", "latest"))
    (site / "versions.json").write_text(json.dumps(versions, indent=2) + "\n")
    for page in ("index.html", "404.html"):
        (site / page).write_text(REDIRECT.format(base=BASE))
    (site / ".nojekyll").touch()


def replace(folder, source):
    """Makes a folder a copy of another."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns(".doctrees"))


def entry(version, folder, **rest):
    """Returns what the switcher needs to know of a version."""
    return {"version": version, "url": f"{BASE}{folder}/", **rest}


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    add(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3])
