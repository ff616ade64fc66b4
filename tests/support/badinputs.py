"""Thousands of bad inputs from a seed, each a command over a folder of files of which some are spoiled, and what must hold of every one.

    python tests/support/badinputs.py --first 0 --count 300

prints those that did not end as they should. `trials` runs them, each in a process of its own.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import re
import shutil
import sys
import tempfile
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import badstock
import mutations
from trials import Ended, Trials

SEED = 0
# What a command may take: seconds, and bytes of memory.
SECONDS, MEMORY = 60.0, 2 * 10**9
# Refused, the audit, no source to speak of, out of reach. Ray is not to be started, and nothing is ever unforeseen.
CODES = {0, 2, 4, 6, 7}


@dataclass(frozen=True)
class Case:
    """A command, and what was done to its files.

    Attributes
    ----------
    arguments : list of str
        Run in `folder`.
    done : list of str
        The mutations, for a report.
    """

    number: int
    kind: str
    folder: Path
    arguments: list[str]
    done: list[str] = field(default_factory=list)


def cases(first: int, count: int, stock: badstock.Stock, folder: Path) -> Iterator[Case]:
    """Cases by number, each with files of its own, which are removed when the next one is asked for."""
    kinds = [name for name, weight in badstock.KINDS.items() for _ in range(weight) if name in stock.kinds]
    for number in range(first, first + count):
        draw = Random(f"{SEED}/{number}")
        kind = draw.choice(kinds)
        own = folder / f"case-{number}"
        case = _made(number, kind, stock, own, draw)
        yield case
        shutil.rmtree(own, ignore_errors=True)


def _made(number: int, kind: str, stock: badstock.Stock, folder: Path, draw: Random) -> Case:
    sample = draw.choice(stock.samples(kind))
    folder.mkdir(parents=True)
    for name in sample.files:
        source = stock.folder / name
        if source.is_dir():
            shutil.copytree(source, folder / source.name)
        else:
            shutil.copy(source, folder / source.name)
    case = Case(number, kind, folder, list(draw.choice(sample.commands)))
    files = sorted(one for name in sample.spoiled for one in folder.glob(name) if one.is_file())
    for _ in range(draw.choice([1, 1, 1, 2, 3]) if files else 0):
        file = draw.choice(files)
        _spoil(case, file, draw)
    if not files or draw.random() < 0.05:
        _misspell(case, draw)
    elif draw.random() < 0.03:
        _rename(case, draw)
    return case


def _spoil(case: Case, file: Path, draw: Random) -> None:
    if not file.is_file() or file.stat().st_size > 2**28:
        return  # spoiled before
    mutation = draw.choice(mutations.mutations(file))
    try:
        mutation(file, draw)
    except Exception as error:
        # What was spoiled before may have no structure left.
        case.done.append(f"{mutation.__name__} of {file.name} not possible: {type(error).__name__}")
        file.write_bytes(mutations.cut(file.read_bytes(), draw)) if file.is_file() else None
        return
    case.done.append(f"{mutation.__name__} of {file.relative_to(case.folder)}")


def _misspell(case: Case, draw: Random) -> None:
    """An argument becomes another, goes, comes twice or moves."""
    own = case.arguments
    for _ in range(draw.choice([1, 1, 2, 3])):
        i = draw.randrange(1, len(own)) if len(own) > 1 else 0
        what = draw.randrange(6)
        if what == 0 and len(own) > 1:
            del own[i]
        elif what == 1:
            own.insert(i, own[i])
        elif what == 2:
            own.append(draw.choice(badstock.FLAGS))
        elif what == 3:
            own += [draw.choice(badstock.FLAGS), draw.choice(mutations.NUMBERS + mutations.WORDS).replace("\0", "")]
        else:
            own[i] = draw.choice(mutations.NUMBERS + mutations.WORDS).replace("\0", "")
    case.done.append("other arguments")


def _rename(case: Case, draw: Random) -> None:
    """A file of the command line has a name with characters that a terminal, a glob or a URL would take for its own."""
    places = [i for i, one in enumerate(case.arguments) if (case.folder / one).is_file() and one]
    if places:
        i = draw.choice(places)
        stem, ending = case.arguments[i].split(".", 1)
        new = draw.choice(
            [
                "\x1b[31m{}",
                "{}\n",
                "a b{}",
                "{}%20",
                "[{}]",
                "{}#x",
                "{}?x=1",
                "{}*",
                "-{}",
                "{}\u202e",
                "é{}",
                "{}\udcff",
                "~{}",
                "{}::a",
            ]
        )
        name = f"{new.format(stem)}.{ending}"
        (case.folder / case.arguments[i]).rename(case.folder / name)
        case.arguments[i] = name
        case.done.append(f"named {name!r}")


def faults(case: Case, ended: Ended, stock: badstock.Stock) -> list[str]:
    """What is wrong about the end of a command; nothing of it should be."""
    found = []
    if ended.signal:
        found.append(f"{'hung' if ended.late else 'died'}: signal {ended.signal} after {ended.seconds:.0f} s")
    elif ended.code not in CODES | ({1} if "--strict" in case.arguments else set()):
        found.append(f"exit code {ended.code}")
    if ended.peak > MEMORY:
        found.append(f"{ended.peak / 1e9:.1f} GB of memory")
    if ended.seconds > SECONDS and not ended.signal:
        found.append(f"{ended.seconds:.0f} s")
    if "Traceback" in ended.err:
        found.append("a traceback")
    if re.search(r"^\S+:\d+: \w*Warning: ", ended.err, re.MULTILINE):
        found.append("a warning of a library")
    if strange := {
        one for one in ended.err + ended.out if one not in "\n\t" and unicodedata.category(one) in ("Cc", "Zl", "Zp", "Cs", "Cf")
    }:
        found.append(f"prints {sorted(map(ascii, strange))}")
    lines = ended.err.strip().splitlines()
    if ended.code and not ended.signal and not (lines and lines[-1].startswith("dnafeat: ") and len(lines[-1]) > 20):
        found.append("no sentence at the end")
    if lines and len(lines[-1]) > 12_000:
        found.append(f"a sentence of {len(lines[-1]):,} characters")
    if any(case.folder.rglob(mutations.CANARY)):
        found.append("something ran")
    if not ended.signal:
        found += _wrong_result(case, ended, stock)
    return found


def _wrong_result(case: Case, ended: Ended, stock: badstock.Stock) -> list[str]:
    """Counts that do not add up, and results of what was refused."""
    if case.kind in ("store", "yaml", "flags"):
        return _wrong_rows(case, ended, stock)
    made = badstock.made(case.arguments, case.folder)
    if ended.code:
        return [f"left {one}" for one in made if one is not None]
    if (
        case.arguments[0] == "embed"
        and not (case.folder / "pca").exists()
        and "--json" in case.arguments
        and "--help" not in case.arguments
    ):
        try:
            told = json.loads(ended.out)
        except ValueError:
            return ["no JSON"] if "-h" not in case.arguments else []
        entries = badstock.entries(case.folder / "store")
        if entries is not None and told["read"] != entries + told["rejected"]:
            return [f"read {told['read']}, rejected {told['rejected']}, and {entries} entries stand"]
    return []


def _wrong_rows(case: Case, ended: Ended, stock: badstock.Stock) -> list[str]:
    """Vectors that a store gives although their file holds others."""
    spoiled_data_alone = case.done and all(
        re.search(r" of store/(features|sequences)/[^_]\S*\.parquet$", one) for one in case.done
    )
    output = case.folder / "read.csv"
    if case.arguments[0] == "read" and ended.code == 0 and spoiled_data_alone and output.is_file():
        rows = sorted(output.read_bytes().splitlines())
        return [] if rows == stock.rows else ["other rows than were stored"]
    return []


def tried(
    first: int, count: int, *, kinds: Iterable[str] | None = None, say: Callable[[str], None] = lambda line: None
) -> list[str]:
    """Run cases and describe those that ended otherwise than they should."""
    found, codes = [], collections.Counter[Any]()
    with tempfile.TemporaryDirectory(prefix="dnafeat-bad-") as place, Trials(SECONDS, MEMORY) as trials:
        stock = badstock.Stock(Path(place) / "stock", kinds)
        say(f"stock of {len(stock.kinds)} kinds")
        for case in cases(first, count, stock, Path(place)):
            ended = trials.run(case.folder, case.arguments)
            codes[case.kind, ended.code] += 1
            if wrong := faults(case, ended, stock):
                last = (ended.err.strip().splitlines() or [""])[-1][:400]
                found.append(f"{case.number} {case.kind} {case.arguments} {case.done}: {'; '.join(wrong)}\n    {last!a}")
                say(found[-1])
                if keep := os.environ.get("DNAFEAT_BAD_KEEP"):
                    shutil.copytree(
                        case.folder, Path(keep) / str(case.number), symlinks=True, dirs_exist_ok=True, ignore=_special
                    )
                    fault = re.search(r"its traceback is in (\S+\.log)", ended.err)
                    more = Path(fault[1]).read_text() if fault else ""
                    (Path(keep) / str(case.number) / "err").write_text(ended.err + more, errors="backslashreplace")
    say(f"{count} tried, {len(found)} wrong; exit codes {dict(sorted(codes.items(), key=str))}")
    return found


def _special(folder: str, names: list[str]) -> list[str]:
    """Of a folder what cannot be copied: pipes, sockets and files with holes."""
    return [one for one in names if not ((path := Path(folder) / one).is_dir() or path.is_file()) or path.stat().st_size > 2**28]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--kinds", type=lambda text: text.split(","))
    options = parser.parse_args()
    sys.exit(bool(tried(options.first, options.count, kinds=options.kinds, say=lambda line: print(line, flush=True))))
