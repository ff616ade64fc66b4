"""Runs a page of documentation from its first fenced block to its last, and compares what each prints with what the page shows.

`sh` blocks are run by bash and `python` blocks share one namespace, all in one folder, with the commands of this environment first in
PATH. `sh refused` has to end with exit code 2, and what it says on standard error counts as printed. The `text` block that follows, if
one does, is their standard output, in which `…` stands for any text within a line, blanks beside it included, and for any lines where it
stands alone; without one nothing is printed. Blocks of other kinds are shown and not run; so are `python` blocks with a word behind,
which have to be Python all the same.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_FENCE = re.compile(r"^```(.*?)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block: what stands behind the fence, its text, its first line in the page, and what it is to print."""

    kind: str
    text: str
    line: int
    shown: str


def blocks(page: Path) -> list[Block]:
    whole = page.read_text()
    found: list[Block] = []
    end = 0
    for match in _FENCE.finditer(whole):
        kind, text = match[1].strip(), match[2]
        if kind == "text":
            assert found, f"{page.name}: the first block shows what nothing prints"
            assert whole[end : match.start()].strip() == "", (
                f"{page.name}: a text block stands apart from the block it belongs to"
            )
            found[-1] = Block(found[-1].kind, found[-1].text, found[-1].line, text)
        else:
            found.append(Block(kind, text, whole.count("\n", 0, match.start()) + 2, ""))
        end = match.end()
    return found


def run(page: Path, folder: Path) -> list[Block]:
    """Runs a page's blocks in an empty folder, and returns those that were not run. Raises AssertionError where one prints another text."""
    names: dict[str, Any] = {"__name__": "page"}
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    left = []
    with contextlib.chdir(folder):
        for block in blocks(page):
            place = f"{page.name}:{block.line}"
            if block.kind in ("sh", "sh refused"):
                command = ["bash", "-euo", "pipefail", "-c", block.text]
                done = subprocess.run(command, capture_output=True, text=True, env=environment)
                wanted = 2 if block.kind == "sh refused" else 0
                assert done.returncode == wanted, f"{place}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
                printed = done.stdout + (done.stderr if wanted else "")
            elif block.kind == "python":
                # As many empty lines before as a traceback needs to tell the page's own line.
                code = compile("\n" * (block.line - 1) + block.text, str(page), "exec")
                with contextlib.redirect_stdout(io.StringIO()) as out:
                    exec(code, names)
                printed = out.getvalue()
            else:
                if block.kind.startswith("python "):
                    compile(block.text, str(page), "exec")
                left.append(block)
                continue
            assert agrees(block.shown, printed), f"{place} shows\n{block.shown}\nand prints\n{printed}"
    return left


def agrees(shown: str, printed: str) -> bool:
    """Whether a text is what a page shows of it; blanks at the ends of lines do not count."""
    pattern = ""
    for line in shown.splitlines():
        if line.strip() == "…":
            pattern += r"(?:.*\n)*?"
        else:
            pattern += ".*?".join(re.escape(part) for part in re.split(" *… *", line.rstrip())) + r"[ \t]*\n"
    return re.fullmatch(pattern, printed if printed.endswith("\n") or not printed else printed + "\n") is not None
