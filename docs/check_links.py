"""Checks the links within a built site, and another page's into it.

    sphinx-build docs html
    python docs/check_links.py html README.md

Sphinx's own linkcheck asks the network about the links that leave the site, and
leaves those within it alone. Here each link within it has to name a page, or
another file, and an anchor that are there. The links that leave it are printed.
"""

import html.parser
import pathlib
import re
import sys
import urllib.parse

SITE = re.compile(r"https://optax-ftml\.github\.io/optax-ftml/(?:stable/)?")


class Page(html.parser.HTMLParser):
    """The links and the anchors of a page."""

    def __init__(self, text):
        super().__init__()
        self.links, self.anchors = set(), set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        """Collects them."""
        attrs = dict(attrs)
        self.anchors |= {attrs.get("id"), attrs.get("name")}
        self.links |= {attrs.get("href"), attrs.get("src")} - {None, ""}


def main(root, other):
    """Prints the external links and exits with those that lead nowhere."""
    root = root.resolve()
    pages = {
        path: Page(path.read_text(encoding="utf-8"))
        for path in root.rglob("*.html")
        if "_static" not in path.parts
    }
    links = [(path, link) for path in pages for link in pages[path].links]
    for link in re.findall(rf"{SITE.pattern}[^\s)]*", other.read_text()):
        links.append((root / other.name, link))
    external, broken = set(), set()
    for path, link in links:
        base = path
        if SITE.match(link):
            base, link = root / "index.html", SITE.sub("", link)
        url = urllib.parse.urlsplit(link)
        if url.scheme or url.netloc:
            external.add(link)
            continue
        name = urllib.parse.unquote(url.path)
        target = (base.parent / name).resolve() if name else base
        found = pages.get(target)
        if not target.exists() or (
            found and url.fragment and url.fragment not in found.anchors
        ):
            broken.add(f"{path.relative_to(root)}: {link}")
    print("\n".join(sorted(external)))
    if broken:
        sys.exit("Links that lead nowhere:\n" + "\n".join(sorted(broken)))
    print(f"{len(pages)} pages, {len(links) - len(external)} links within")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*map(pathlib.Path, sys.argv[1:]))
