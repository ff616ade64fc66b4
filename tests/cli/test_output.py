"""What commands print: one JSON document or text, nothing that a terminal would obey, and tables that fit."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from stores import A, B, Entry, Run, fill
from terminal import on_terminal

from dnafeat.cli import main as cli
from dnafeat.cli.commands import BY_NAME, COMMANDS
from dnafeat.cli.main import main
from dnafeat.cli.output import JsonOutput, Output, Report, logged
from dnafeat.errors import DnafeatWarning, UsageError
from dnafeat.text import aligned, did_you_mean, filled, fitted, iso, shortened, visible

ENTRIES = [Entry("a", "ACGT", {"subject": "s1"}), Entry("b", "GGCC", {"subject": "s2"})]
ESCAPE = "\x1b[2J\x1b]0;title\x07"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("store")
    uri = str(folder / "store")
    fill(uri, ENTRIES, folder)
    fill(uri, ENTRIES, folder, version=B)
    Run(uri, [*ENTRIES, Entry("c", "TTTT", {"subject": "s3"})], folder, run_id="2026-11-30T18-12-48-abcdef").encode().publish()
    assert main(["publish", "--store", uri, "--version", A.digest]) == 0
    return uri


def test_names_of_others_neither_move_the_cursor_nor_pass_for_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "co\x1b[2J\u202ehort\nforgotten: 7 entries\u200b"
    uri = str(tmp_path / "store")
    fill(uri, [Entry("a", "ACGT", {"subject": "s1"})], tmp_path, source=name)
    for arguments in (["runs"], ["versions"], ["diff", A.digest, A.digest], ["forget", "--where", f"source_name={name}"]):
        assert main([*arguments, "--store", uri]) in (0, 2)
        out, err = capsys.readouterr()
        assert not {*"\x1b\u202e\u200b"} & {*out, *err}, arguments
        assert "\nforgotten: 7" not in out + err, arguments
    fill(uri, [Entry("a", "ACGT")], tmp_path, source=name)
    capsys.readouterr()
    assert main(["runs", "--store", uri, "--json"]) == 0
    assert [row["source_name"] for row in json.loads(capsys.readouterr().out)] == [name, name]


def test_a_setting_is_printed_as_yaml_that_reads_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "s\x1b[2J\u202e"
    assert main(["config", "embed", str(tmp_path), "--store", str(tmp_path), "--source-name", name]) == 0
    out = capsys.readouterr().out
    assert not {*"\x1b\u202e"} & {*out}
    assert yaml.safe_load(out)["source_name"] == name


# -- JSON --------------------------------------------------------------------------------------------------------------

LISTING = [
    ["runs"],
    ["versions"],
    ["diff", A.digest, B.digest],
    ["files"],
    ["publish", "--version", A.digest],
    ["publish", "--version", A.digest, "--name", "mine"],
    ["maintain"],
    ["maintain", "--dry-run"],
    ["forget", "--where", "subject=nobody"],
]


@pytest.mark.parametrize("arguments", LISTING, ids=" ".join)
def test_json_is_one_document_and_nothing_else(store: str, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main([*arguments, "--store", store, "--json"]) == 0
    out = capsys.readouterr().out
    assert json.loads(out) is not None
    assert out.count("\n") == 1
    assert main([*arguments, "--store", store]) == 0
    with pytest.raises(json.JSONDecodeError):
        json.loads(capsys.readouterr().out)


def test_a_file_that_is_written_is_reported_as_json(store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["read", "--store", store, "--output", str(tmp_path / "new" / "x.parquet"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["rows"], told["format"]) == (3, "parquet")
    assert main(["export", "--store", store, "--output", str(tmp_path / "snapshot"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 3


def test_commands_without_a_store_have_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help", "--json"]) == 0
    assert {one["name"] for one in json.loads(capsys.readouterr().out)} == {command.name for command in COMMANDS}
    assert main(["help", "embed", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["group"] == "embed"
    assert main(["models", "--json"]) == 0
    assert "dnabert2" in [one["name"] for one in json.loads(capsys.readouterr().out)]
    for shell in ("bash", "zsh", "fish"):
        assert main(["completion", shell, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["shell"] == shell


def test_dates_are_iso_8601_in_utc_everywhere(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    for command, key in (("runs", "finished_at"), ("versions", "recorded_at")):
        assert main([command, "--store", store, "--json"]) == 0
        for row in json.loads(capsys.readouterr().out):
            assert row[key].endswith("Z")
            assert datetime.fromisoformat(row[key]).utcoffset() == timedelta(0)
    assert main(["files", "--store", store, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    for key in ("listed_at", "holds_until"):
        assert told[key].endswith("Z")
        assert datetime.fromisoformat(told[key]).utcoffset() == timedelta(0)
    assert main(["runs", "--store", store]) == 0
    assert len(re.findall(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", capsys.readouterr().out)) == 3
    assert iso(datetime(2026, 1, 2, 3, 4, 5, 6, UTC)) == "2026-01-02T03:04:05.000006Z"


# -- quiet and verbose -------------------------------------------------------------------------------------------------


def test_quiet_prints_the_result_alone(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["files", "--store", store, "-q"]) == 0
    out, err = capsys.readouterr()
    assert all(line.endswith(".parquet") for line in out.splitlines())
    assert err == ""
    assert main(["maintain", "--store", store, "--quiet"]) == 0
    assert capsys.readouterr().out == f"{store} is maintained\n"
    for arguments in (["-q", "runs"], ["--quiet", "runs"]):
        assert main([*arguments, "--store", store]) == 0
        assert len(capsys.readouterr().out.splitlines()) == 4


def test_the_log_is_plain_lines_by_level(capsys: pytest.CaptureFixture[str]) -> None:
    def log() -> list[str]:
        logging.getLogger("dnafeat.some.module").debug("detail")
        logging.getLogger("dnafeat.some.module").info("sentence %s", ESCAPE)
        logging.getLogger("dnafeat").info("record for machines")
        logging.getLogger("dnafeat.some.module").warning("attention")
        return capsys.readouterr().err.splitlines()

    shown = "sentence \\x1b[2J\\x1b]0;title\\x07"
    with logged(quiet=False, verbose=False):
        assert log() == [shown, "dnafeat: attention"]
    with logged(quiet=True, verbose=False):
        assert log() == ["dnafeat: attention"]
    with logged(quiet=False, verbose=True):
        assert log() == ["detail", shown, "record for machines", "dnafeat: attention"]
    assert log() == []


def job(monkeypatch: pytest.MonkeyPatch, function: Callable[..., Any], form: Callable[..., str] = str) -> None:
    """Put a job and a form in the place of those of `embed`."""
    real = cli.found
    monkeypatch.setattr("dnafeat.cli.command.found", lambda path: function if path == BY_NAME["embed"].job else real(path))
    monkeypatch.setattr(cli, "found", lambda path: form if path == BY_NAME["embed"].form else real(path))


def test_a_job_is_told_to_show_nothing_and_what_it_prints_is_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.fa").write_text(">a\nACGT\n")
    asked = []

    def run(config: Any, *, show: bool) -> dict[str, int]:
        print("a library's line")
        asked.append(show)
        return {"rows": 1}

    job(monkeypatch, run, lambda result: f"{result['rows']} row\n\n  details  x")
    command = ["embed", str(tmp_path / "a.fa"), "--store", str(tmp_path / "s")]
    assert main(command) == 0
    assert capsys.readouterr() == ("1 row\n\n  details  x\n", "a library's line\n")
    assert main([*command, "-q"]) == 0
    assert capsys.readouterr().out == "1 row\n"
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"rows": 1}
    assert asked == [True, False, True]


# -- what terminals obey -----------------------------------------------------------------------------------------------


def test_control_characters_are_shown_and_not_sent() -> None:
    assert visible("plain ü 統") == "plain ü 統"
    assert visible(ESCAPE) == "\\x1b[2J\\x1b]0;title\\x07"
    assert visible("a\nb\tc\r") == "a\\nb\\tc\\r"
    assert visible("a\nb", keep="\n") == "a\nb"
    assert visible("\x9b31m\u202e\u2066\u2028") == "\\x9b31m\\u202e\\u2066\\u2028"
    # A name that is no UTF-8 could not be printed at all.
    assert visible(b"\xff.fa".decode("utf-8", "surrogateescape")) == "\\udcff.fa"


@pytest.mark.parametrize("form", [Output, JsonOutput])
def test_every_way_out_is_safe(form: type[Output], capsys: pytest.CaptureFixture[str]) -> None:
    output = form()
    output.result(Report(document={"name": ESCAPE}, text=f"{ESCAPE}\nb", remarks=(ESCAPE,)), None, lists=True)
    output.narrate(ESCAPE)
    output.remark(f"{ESCAPE}\nsecond")
    assert cli.guarded(lambda: _raise(UsageError(f"{ESCAPE}\nforged line"))) == 2
    assert cli.guarded(_warn) == 0
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err
    assert "\x07" not in out + err
    assert "\\x1b[2J" in err
    assert all(line.startswith(("dnafeat: ", "\\x1b")) for line in err.splitlines())


def _raise(error: Exception) -> int:
    raise error


def _warn() -> int:
    import warnings

    warnings.warn(f"{ESCAPE}", DnafeatWarning, stacklevel=1)
    return 0


def test_names_in_tables_of_a_store_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    uri = str(tmp_path / "store")
    fill(uri, ENTRIES, tmp_path, source=f"evil{ESCAPE}\nforged")
    for arguments in (["runs"], ["read", "--source", ESCAPE, "--output", str(tmp_path / "x")], ["files", "--table", ESCAPE]):
        main([*arguments, "--store", uri])
        out, err = capsys.readouterr()
        assert "\x1b" not in out + err
        assert "\nforged" not in out + err


# -- tables ------------------------------------------------------------------------------------------------------------


def test_tables_use_the_width_there_is() -> None:
    table = [["run", "number", "source", "note"], ["a" * 20, "1", "b" * 30, "c d e f"], ["x", "22", "y", ""]]
    wide = aligned(table, right={1})
    assert fitted(table, right={1}) == fitted(table, right={1}, width=200) == wide
    assert wide.splitlines()[2] == f"{'x':<20}      22  y"
    blocks = fitted(table, right={1}, width=40, lead=2)
    assert blocks.splitlines() == [
        f"{'run':<20}  number",
        f"{'a' * 20}       1",
        f"    source {'b' * 28}…".replace("b" * 28 + "…", shortened(f"source {'b' * 30}", 35).removeprefix("source ")) + ",",
        "    note c d e f",
        f"{'x':<20}      22",
        "    source y",
    ]
    assert all(len(line) <= 40 for line in blocks.splitlines())


def test_a_text_is_shortened_in_its_middle() -> None:
    assert shortened("abcdef", 6) == "abcdef"
    assert shortened("abcdefgh", 5) == "ab…gh"


def test_long_lines_wrap_at_words_and_commands_stay_whole() -> None:
    text = filled("  source   one two three four\nnext: dnafeat read --store somewhere far away", 20)
    assert text.splitlines() == [
        "  source   one two",
        "           three",
        "           four",
        "next: dnafeat read --store somewhere far away",
    ]
    assert filled("a b c", None) == "a b c"


def test_runs_and_versions_fit_80_columns_and_cut_no_word(store: str) -> None:
    for command in ("runs", "versions"):
        text = on_terminal([command, "--store", store])
        assert max(map(len, text.splitlines())) <= 80
        for word in (A.digest, B.digest, "cohort" if command == "runs" else "production"):
            assert word in text
    assert "2026-11-30T18-12-48-abcdef" in on_terminal(["runs", "--store", store])
    wide = on_terminal(["runs", "--store", store], columns=200)
    assert len(wide.splitlines()) == 4


def test_somebody_who_waits_is_told_what_begins(tmp_path: Path) -> None:
    (tmp_path / "a.fa").write_text(">a\nACGT\n")
    # An adapter that is not there ends the command after the first line.
    command = ["embed", str(tmp_path / "a.fa"), "--store", str(tmp_path / "s"), "--adapter", str(tmp_path / "none")]
    first, *rest = on_terminal(command, columns=200).splitlines()
    assert first.startswith(f"dnafeat: reading 1 file (8 bytes) into {tmp_path / 's'} with adapter ")
    assert len(rest) == 1
    assert len(on_terminal([*command, "-q"], columns=200).splitlines()) == 1


# -- suggestions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "known", "hint"),
    [
        ("maen", ["cls", "mean", "max"], " (did you mean mean?)"),
        ("MEAN", ["cls", "mean"], " (did you mean mean?)"),
        ("zzz", ["cls", "mean"], ""),
        ("", ["cls"], ""),
        ("--tiel", ["--tile", "--strict"], " (did you mean --tile?)"),
    ],
)
def test_the_closest_name_is_suggested(word: str, known: list[str], hint: str) -> None:
    assert did_you_mean(word, known) == hint


def test_each_kind_of_name_is_suggested(store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = ["--output", str(tmp_path / "x.parquet")]
    cases = {
        "embed": ["embde"],
        "--tile": ["embed", "a.fa", "--store", store, "--tiel", "300"],
        "mean": ["read", "--store", store, "--columns", "maen", *output],
        "production": ["read", "--store", store, "--version", "prodution", *output],
        A.digest: ["diff", "--store", store, f"x{A.digest}", B.digest],
        "cohort": ["read", "--store", store, "--source", "cohrt", *output],
        "subject": ["read", "--store", store, "--where", "subjct=s1", *output],
        "sequences": ["files", "--store", store, "--table", "sequnces"],
        "2026-11-30T18-12-48-abcdef": ["rollback", "2026-11-30T18-12-48-abcdeg", "--store", store],
        "subject ": ["forget", "--store", store, "--where", "subjekt=s1"],
        "precision": ["config", "embed", "--precison", "auto"],
    }
    for wanted, arguments in cases.items():
        assert main(arguments) == 2
        err = capsys.readouterr().err
        assert re.search(rf"\(did you mean (--)?{re.escape(wanted.strip())}\??", err), (arguments, err)
        assert err.startswith("dnafeat: ")
        assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["embed", "--tile"], "--tile needs a value (dnafeat embed --help lists the options)"),
        (["runs", "--json=x"], "--json takes no value (dnafeat runs --help lists the options)"),
        (
            ["embed", "--wind", "3"],
            "--wind can mean --window-tokens, --window-bases: write more of it (dnafeat embed --help lists the options)",
        ),
        (["runs", "extra", "--store", "s"], "extra is more than dnafeat runs takes"),
        (["--jsn", "runs"], "there is no option --jsn (did you mean --json?) before a command: `dnafeat --help` lists commands"),
        (["--store", "s"], "there is no option --store before a command: `dnafeat --help` lists commands"),
        (["diff", "a", "--store", "s"], "versions are 1: name the two to compare"),
        (["completion", "sh"], "shell 'sh' is none of bash, zsh, fish"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_parsed_is_one_sentence(arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr() == ("", f"dnafeat: {sentence}\n")


def test_options_of_every_command_may_stand_before_it(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["--json", "runs", "--store", store]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 3


def test_all_that_is_wrong_is_told_at_once_and_before_torch(tmp_path: Path) -> None:
    import subprocess

    code = (
        "import sys\nfrom dnafeat.cli.main import main\ncode = main(sys.argv[1:])\n"
        "assert not {'torch', 'ray', 'pyarrow'} & set(sys.modules), 'heavy'\nsys.exit(code)"
    )
    arguments = ["embed", "nowhere.fa", "--tile", "x", "--max-n-share", "2", "--precision", "float16"]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    for part in ("--tile", "--max-n-share", "--precision", "store is missing", "nowhere.fa does not exist"):
        assert part in done.stderr


def test_a_store_can_come_from_the_environment(
    store: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("DNAFEAT_STORE", raising=False)
    capsys.readouterr()
    assert main(["runs"]) == 2
    assert "DNAFEAT_STORE" in capsys.readouterr().err
    monkeypatch.setenv("DNAFEAT_STORE", store)
    assert main(["runs"]) == 0
    listed = capsys.readouterr().out
    monkeypatch.setenv("DNAFEAT_STORE", "/nowhere")
    assert main(["runs", "--store", store]) == 0
    assert capsys.readouterr().out == listed


def test_results_show_themselves_in_a_notebook_as_the_command_prints_them(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    from dnafeat import Store
    from dnafeat.store.drift import diff

    capsys.readouterr()
    assert main(["diff", A.digest, B.digest, "--store", store]) == 0
    assert repr(diff(Store(store), A.digest, B.digest)) + "\n" == capsys.readouterr().out
