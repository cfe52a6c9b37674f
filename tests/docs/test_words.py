"""The prose has none of the phrases that tired its readers.

Pages, docstrings, comments and the notebooks' text. Each phrase stands with
what to write in its place, and with a sentence that it refuses and one that it
lets pass.
"""

import json
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[2]
# Folders whose prose is checked.
READ = [
    "CHANGELOG.md",
    "CODE_OF_CONDUCT.md",
    "CONTRIBUTING.md",
    "README.md",
    "SECURITY.md",
    "benchmarks/*.py",
    "docs/**/*.md",
    "docs/**/*.py",
    "examples/*.py",
    "notebooks/*.ipynb",
    "notebooks/*.py",
    "optax_ftml/**/*.py",
    "tests/**/*.py",
]
LEFT_OUT = {"build", "_build", "dist"}

UNITS = (
    "batch|character|chip|column|coordinate|device|element|epoch|example|group|leaf"
    "|line|parameter|round|row|second|slice|step|unit|value|weight"
)
AMOUNTS = (
    r"arrays?|axes|B|bits?|bytes?|calls?|divisions?|equations?|examples"
    r"|images|kernels?|loss(?:es)?|memory|ms|nats|numbers|reductions?|slots?"
    r"|state|steps|temporaries|times|tokens|words"
)
PHRASES = [
    # (pattern, what to write, refused, allowed)
    (
        rf"\b(?:{AMOUNTS}) an? (?:{UNITS})\b(?! (?:can|has|is|may|needs|of)\b)",
        "per leaf, per parameter",
        "It moves 20 bytes a parameter.",
        "The bytes of a parameter are a step in the right direction.",
    ),
    (
        r"\blest\b",
        "so that ... not",
        "Copy it, lest it be lost.",
        "The latest is the least.",
    ),
    (
        r"\b(?:writ(?:es?|ing|ten)|wrote)(?: (?:it|them|all|the)\b(?: \w+)?)?"
        r" out\b(?! of\b)",
        "materialises, stores",
        "XLA writes it out.",
        "It writes into the file, without an error.",
    ),
    (
        r"\b(?<!that )(?:is|be) a number(?=[.:;)]|$|, (?:and|but|so)\b"
        r"| (?:and|again|anyway|everywhere|here|there|where|while)\b)",
        "is finite",
        "The loss is a number again.",
        "A rate is a number, an array, or a schedule; x is not a number.",
    ),
    (
        r"\bSo (?:far|few|large|little|long|many|much|small)\b[^.]* at most\b"
        r"|\bat most that\b",
        "a sentence with its subject first",
        "So large at most that nothing overflows.",
        "So it takes at most three steps.",
    ),
    (
        r"(?:^|[.:;] |[|*>-] )(?:What (?:is|has|are) (?:too|not|no|never)\b"
        r"|That it is\b)",
        "a sentence with its subject first",
        "It ends. What is too large is cut.",
        "What is a prox? It shows what is too large.",
    ),
]


def _prose(path):
    """Returns the paragraphs, rows of tables and items of lists of a file."""
    text = path.read_text()
    if path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        sources = [c["source"] for c in cells if c["cell_type"] == "markdown"]
        text = "\n\n".join(map("".join, sources))
    if path.suffix == ".py":  # Code stays; a comment's lines are a paragraph.
        text = re.sub(r'(?m)^ *# ?|"""', "", text)
    return re.split(r"\n\s*\n|\n(?=[|*-] )", text)


def _files():
    paths = {path for pattern in READ for path in ROOT.glob(pattern)}
    return sorted(
        path
        for path in paths - {pathlib.Path(__file__)}
        if path.suffix in (".md", ".py", ".ipynb")
        and not LEFT_OUT & set(path.relative_to(ROOT).parts)
    )


def _find(text):
    text = " ".join(text.split())
    for pattern, instead, *_ in PHRASES:
        for found in re.finditer(pattern, text):
            start, end = max(0, found.start() - 30), found.end() + 30
            yield f"...{text[start:end]}...: write {instead}"


@pytest.mark.parametrize(("pattern", "instead", "bad", "good"), PHRASES)
def test_phrases(pattern, instead, bad, good):
    assert re.search(pattern, bad)
    assert not re.search(pattern, good)


@pytest.mark.parametrize(
    "path", _files(), ids=lambda path: str(path.relative_to(ROOT))
)
def test_prose(path):
    hits = [hit for piece in _prose(path) for hit in _find(piece)]
    assert not hits, "\n" + "\n".join(hits)
