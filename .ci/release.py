"""Checks that a tag names the version everywhere, and prints what is new in it.

    python .ci/release.py v0.1.0

The package, CITATION.cff and the first heading of CHANGELOG.md have to have the
tag's version, and the last two the same date. What CHANGELOG.md says of the
version goes to standard output: the notes of the release.
"""

import pathlib
import re
import sys


def main(tag):
    """Exits with what disagrees, or prints the notes."""
    version = find(r'^__version__ = "(.*)"$', "optax_ftml/__init__.py")
    cited = find(r"^version: (.*)$", "CITATION.cff")
    date = find(r"^date-released: (\d{4}-\d\d-\d\d)$", "CITATION.cff")
    heading = find(r"^## (.*)$", "CHANGELOG.md")
    said = {
        "the tag": (tag, f"v{version}"),
        "CITATION.cff": (f"{cited}, {date}", f"{version}, {date}"),
        "CHANGELOG.md": (heading, f"{version} ({date})"),
    }
    for where, (found, expected) in said.items():
        if found != expected:
            sys.exit(f"{where} has {found}, expected {expected}")
    notes = find(r"(?s)^## .*?\n\s*(.*?)\s*(?:^## |\Z)", "CHANGELOG.md")
    # GitHub shows each line of a release's notes as a line.
    print(re.sub(r"\n +(?=[^ *-])", " ", notes))


def find(pattern, path):
    """Returns what the group of a pattern matches in a file."""
    found = re.search(pattern, pathlib.Path(path).read_text(), re.MULTILINE)
    if not found:
        sys.exit(f"{path} has no line like {pattern}")
    return found[1]


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
