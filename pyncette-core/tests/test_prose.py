"""The repository reads as plain English: no phrase below is left in its pages, docstrings, comments, messages and help texts.

Add to the list whatever else reads as if translated, with what to write instead.
"""

import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

#: What not to write, as a regular expression, and what to write.
BANNED = {
    r"(?:store|database|server|Redis) (?:is|was|that is|that was|being|goes|went) away": "unreachable",
    r"tells? (?:its|their) URLs?": "prints its URL",
    r"tells? (?:which|how|where|when|why) ": "says which, shows how",
    r"looks? after": "uses, checks, manages",
    r"say yourself that": "report it yourself",
    r"get(?:s|ting)? on with": "makes progress, continues",
    r"what it does not pass on": "if it raises nothing",
    r"who is there": "which workers are alive",
    r"^#: so many|after so many|so many (?:times|rows|runs|processes|attempts|partitions|others)\b": "that many, how many",
    r"(?:is|are|be|was) let (?!down)\w+": "may, finishes",
    r"(?:made|makes?|making) up for": "caught up, catches up",
    r"watched over|watches over": "supervised",
    r"once more": "again",
    r"on (?:its|their) way(?! out)": "in progress",
    r"(?:runs?|claims?|occurrences?) (?:is|are|was|were) overtaken": "lost its lease, taken over",
    r"make(?:s)? no sense|made no sense": "is not valid",
    r"leases? (?:is|are|was|were) over|lease ends|leases end\b|leases? ended": "expired",
    r"lease over\b": "lease expired",
    r"what (?:becomes|became) of": "what happens to",
    r"anew": "again",
    r"for ever(?!y)": "forever",
    r"all the same[.,;:)]": "anyway",
    r"(?:is|are|was|were) mended|mends?": "repaired",
    r"without a word": "without reporting",
    r"is held up for good": "is blocked",
    r"whoever starts last has its way": "the last to start wins",
    r"gets? in each other's way": "conflict",
    r"can be had (?:with|by|from)": "install it with",
    r"a row of nobody": "a row that nobody polls",
    r"tried again and again": "retried",
    r"to be tried again": "will be retried",
    r"(?:is|be|are|was|were) tried again|tries again": "is retried, retries",
    r"in one go": "at once, together",
    r"(?:go(?:es)?) with (?:FREQ|no other|the state)|go(?:es)? together": "can be combined",
    r"by (?:itself|themselves)": "automatically, alone, on its own",
    r"in vain": "to no effect",
    r"(?:can't|to) be had": "is not available",
    r"row of its own": "a separate row",
    r"(?:is|was|are|were) looked whether|looks? whether": "check whether",
    r"ought to": "should",
    r"now and then": "at intervals, sometimes",
    r"in hand": "holds",
    r"(?<!name )of (?:yours|ours)": "your own, one of Pyncette's",
    r"for want of": "without",
    r"(?:time|timeout`*|lease) is over": "has passed, has expired",
    r"or such\b": "for example",
    r"the way of one": "the path of one",
    r"hand what blocks": "run blocking code",
}
#: Names of files whose words are not ours to choose, or are about these.
EXCUSED = {"test_prose.py", "CHANGELOG.md"}

_ALL = re.compile(
    "|".join(rf"(?P<p{n}>\b(?:{phrase}))" for n, phrase in enumerate(BANNED)).replace(r"\b(?:^", "(?:^"), re.IGNORECASE
)


def pages() -> list[Path]:
    return [path for pattern in ("*.md", "docs/**/*.md", "*/README.md") for path in sorted(ROOT.glob(pattern))]


def sources() -> list[Path]:
    folders = [*ROOT.glob("pyncette-*/src"), *ROOT.glob("conformance-tests/src"), ROOT / "tools", ROOT / "examples"]
    return [*ROOT.glob("*.py"), *sorted(path for folder in folders for path in folder.rglob("*.py"))]


def prose(path: Path) -> str:
    """The lines of a file, of Python only what is in comments and strings."""
    text = path.read_text()
    if path.suffix != ".py":
        return text
    lines = [""] * (text.count("\n") + 2)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in (tokenize.COMMENT, tokenize.STRING) or tokenize.tok_name[token.type] == "FSTRING_MIDDLE":
            for number, line in enumerate(token.string.split("\n"), token.start[0] - 1):
                lines[number] += line
    return "\n".join(lines)


def found(text: str) -> list[str]:
    return [
        f"line {number}: {line.strip()[:100]!r}: write {list(BANNED.values())[int(match.lastgroup[1:])]}"  # type: ignore[index]
        for number, line in enumerate(text.split("\n"), 1)
        for match in _ALL.finditer(line)
    ]


@pytest.mark.parametrize("kind", ["pages", "sources"])
def test_no_phrase_of_the_list_is_left(kind: str) -> None:
    paths = [path for path in (pages() if kind == "pages" else sources()) if path.name not in EXCUSED]
    assert len(paths) > 20
    assert [f"{path.relative_to(ROOT)}, {what}" for path in paths for what in found(prose(path))] == []


@pytest.mark.parametrize(
    "sentence",
    [
        "It tells its URL.",
        "What was missed is made up for.",
        "A body is let finish.",
        "The store was away.",
        "#: So many rows.",
        "The processes are watched over.",
        "Once more ends the process at once.",
        "Who is there throughout is listed.",
        "The rows are tried again.",
        "Its parts don't go together.",
        "A server that can't be had is skipped.",
    ],
)
def test_a_phrase_of_the_list_is_found(sentence: str) -> None:
    assert found(sentence)
