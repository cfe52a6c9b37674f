"""The prose has none of the phrases that tired its readers.

Pages, docstrings, comments and the notebooks' text. Each phrase stands with
what to write in its place, and with a sentence that it refuses and one that it
lets pass.
"""

import io
import json
import pathlib
import re
import tokenize

import pytest

ROOT = pathlib.Path(__file__).parents[2]
# Folders whose prose is checked.
READ = [
    "CODE_OF_CONDUCT.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "benchmarks/*.py",
    "docs/**/*.md",
    "docs/**/*.py",
    "examples/*.py",
    "notebooks/*.ipynb",
    "notebooks/*.py",
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
    """Yields the pieces of text of a file, each on one line."""
    text = path.read_text()
    if path.suffix == ".ipynb":
        for cell in json.loads(text)["cells"]:
            source = "".join(cell["source"])
            if cell["cell_type"] == "markdown":
                yield from _blocks(source)
    elif path.suffix == ".py":
        yield from _comments(text)
    else:
        yield from _blocks(text)


def _blocks(markdown):
    """Returns paragraphs, rows of tables and items of lists."""
    return re.split(r"\n\s*\n|\n(?=[|*-] )", markdown)


def _comments(code):
    """Yields strings, and comments, those of lines in a row as one."""
    comment, last = "", 0
    for token in tokenize.generate_tokens(io.StringIO(code).readline):
        if token.type == tokenize.COMMENT:
            if token.start[0] != last + 1:
                yield comment
                comment = ""
            comment += token.string.lstrip("#") + " "
            last = token.start[0]
        elif token.type == tokenize.STRING:
            yield from _blocks(token.string.strip("\"'rf"))
        elif token.type == getattr(tokenize, "FSTRING_MIDDLE", None):
            yield token.string
    yield comment


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
