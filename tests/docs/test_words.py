"""The prose has none of the phrases that tired its readers.

Pages, docstrings, comments and the notebooks' text.
"""

import json
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[2]
# Files whose prose is checked.
READ = ["*.md", "benchmarks/*.py", "docs/**/*.*", "examples/*.py"]
READ += ["notebooks/*.*", "optax_ftml/**/*.py", "tests/**/*.py"]

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
    # (pattern, what to write, a sentence that it refuses)
    (
        rf"\b(?:{AMOUNTS}) an? (?:{UNITS})\b(?! (?:can|has|is|may|needs|of)\b)",
        "per leaf, per parameter",
        "It moves 20 bytes a parameter.",
    ),
    (
        r"\blest\b",
        "so that ... not",
        "Copy it, lest it be lost.",
    ),
    (
        r"\b(?:writ(?:es?|ing|ten)|wrote)(?: (?:it|them|all|the)\b(?: \w+)?)?"
        r" out\b(?! of\b)",
        "materialises, stores",
        "XLA writes it out.",
    ),
    (
        r"\b(?<!that )(?:is|be) a number(?=[.:;)]|$|, (?:and|but|so)\b"
        r"| (?:and|again|anyway|everywhere|here|there|where|while)\b)",
        "is finite",
        "The loss is a number again.",
    ),
    (
        r"\bSo (?:far|few|large|little|long|many|much|small)\b[^.]* at most\b"
        r"|\bat most that\b",
        "a sentence with its subject first",
        "So large at most that nothing overflows.",
    ),
    (
        r"(?:^|[.:;] |[|*>-] )(?:What (?:is|has|are) (?:too|not|no|never)\b"
        r"|That it is\b)",
        "a sentence with its subject first",
        "It ends. What is too large is cut.",
    ),
]


def files():
    paths = {path for pattern in READ for path in ROOT.glob(pattern)}
    return [
        path
        for path in paths - {pathlib.Path(__file__)}
        if path.suffix in (".md", ".py", ".ipynb")
        and "_build" not in path.relative_to(ROOT).parts
    ]


def prose(path):
    """Returns the paragraphs, rows of tables and items of lists of a file."""
    text = path.read_text()
    if path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        sources = [c["source"] for c in cells if c["cell_type"] == "markdown"]
        text = "\n\n".join(map("".join, sources))
    if path.suffix == ".py":  # Code stays; a comment's lines are a paragraph.
        text = re.sub(r'(?m)^ *# ?|"""', "", text)
    pieces = re.split(r"\n\s*\n|\n(?=[|*-] )", text)
    return [" ".join(piece.split()) for piece in pieces]


@pytest.mark.parametrize(("pattern", "instead", "refused"), PHRASES)
def test_phrases(pattern, instead, refused):
    assert re.search(pattern, refused)
    found = {
        f"{path.relative_to(ROOT)}: ...{piece[max(0, hit.start() - 30) :]:.90}"
        for path in files()
        for piece in prose(path)
        for hit in re.finditer(pattern, piece)
    }
    assert not found, f"write {instead}"
