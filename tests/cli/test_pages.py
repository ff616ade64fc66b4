"""Every `dnafeat …` and `jobs/….py …` command line on a page is one that the parser takes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from dnafeat.cli.commands import BY_NAME
from dnafeat.cli.parser import parsed, parser_of

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *(path for folder in ("jobs", "schemas") for path in sorted((ROOT / folder).glob("*")))]
PAGES = [path for path in PAGES if path.suffix in (".md", ".py")]
# A command in a block of its own, after a prompt, in backquotes, or as a job.
_LINE = re.compile(r"(?:^|[`$>|;&(]\s*|-- )(?:dnafeat|python jobs/(\w+)\.py) ([^`\n]*(?:\\\n[^`\n]*)*)", re.MULTILINE)
# Jobs with options of their own.
_OWN = {"submit", "gue"}


def commands(page: Path) -> list[list[str]]:
    text, found = page.read_text().replace("\\\\\n", "\\\n"), []
    for match in _LINE.finditer(text):
        job, rest = match[1], match[2].replace("\\\n", " ")
        # What follows is another command, a redirection, a remark in parentheses or one of the shell's.
        rest = re.split(r"[ ^][|>#]|^\||;|&&|\s{3,}| \$\(", rest)[0]
        try:
            words = shlex.split(rest)
        except ValueError:
            continue
        words = [job.replace("_", "-"), *words] if job else words
        if job in _OWN or not words or words[0] == "COMMAND":
            continue
        found.append(words)
    return found


LINES = [(page, words) for page in PAGES for words in commands(page)]


def test_there_are_many() -> None:
    assert len(LINES) > 60
    assert {page.name for page, _ in LINES} >= {"README.md", "PARTNERS.md"}


@pytest.mark.parametrize(("page", "words"), LINES, ids=[f"{page.name}: {' '.join(words)[:60]}" for page, words in LINES])
def test_a_command_line_of_a_page_parses(page: Path, words: list[str]) -> None:
    name, *arguments = words
    if name == "config" and arguments:
        name = arguments.pop(0)
    assert name in BY_NAME, words
    parser = parser_of(BY_NAME[name])
    # `dnafeat read --as-of` names an option, and gives no value.
    if arguments and arguments[-1].startswith("--"):
        assert arguments[-1] in parser._option_string_actions
        arguments.pop()
    _, problems = parsed(parser, arguments)
    assert problems == [], words
