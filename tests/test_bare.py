"""`pip install dnafeat` without extras: an environment of its own, with the distributions that reading needs and no others."""

from __future__ import annotations

import subprocess
from pathlib import Path

import environments
import numpy as np
import pytest
from stores import A, Entry, fill

ENTRIES = [Entry("a", "ACGT", {"subject": "s1"}), Entry("b", "GGCC", {"subject": "s2"})]
ABSENT = (
    "torch",
    "ray",
    "transformers",
    "peft",
    "tokenizers",
    "sklearn",
    "scipy",
    "matplotlib",
    "pandas",
    "duckdb",
    "polars",
    "pytest",
    "pip",
)


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of that environment."""
    return environments.make(tmp_path_factory.mktemp("bare") / "venv", environments.closure("dnafeat"))


def run(python: Path, code: str, *arguments: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [str(python), "-I", "-c", code, *arguments],
        capture_output=True,
        text=True,
        cwd=python.parent,
        env={"PATH": "/usr/bin:/bin"},
    )
    return done.returncode, done.stdout, done.stderr


def dnafeat_command(python: Path, *arguments: str) -> tuple[int, str, str]:
    return run(python, "import sys; from dnafeat.cli.main import main; sys.exit(main(sys.argv[1:]))", *arguments)


def test_nothing_of_the_extras_is_there(python: Path) -> None:
    code = "import importlib.util, sys; print([name for name in sys.argv[1:] if importlib.util.find_spec(name)])"
    assert run(python, code, *ABSENT, "dnafeat", "deltalake") == (0, "['dnafeat', 'deltalake']\n", "")


def test_a_store_is_read_listed_and_written_out(python: Path, tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    fill(store, ENTRIES, tmp_path, run_id="monday")
    code = """
import sys, dnafeat
table = dnafeat.Store(sys.argv[1]).read(where={"subject": "s2"})
print(table.column("sequence_id").to_pylist(), dnafeat.matrix(table["mean"]).shape, sorted({"ray", "torch", "yaml"} & set(sys.modules)))
"""
    assert run(python, code, store) == (0, "['b'] (1, 4) []\n", "")
    code, out, err = dnafeat_command(python, "versions", "--store", store)
    assert (code, err) == (0, "")
    assert out.splitlines()[1].split()[:2] == ["tests-1@1", A.digest]
    for command in (
        ["read", "--output", str(tmp_path / "out.parquet")],
        ["runs"],
        ["publish", "--version", A.digest],
        ["maintain"],
        ["export", "--output", str(tmp_path / "snapshot")],
    ):
        code, _, err = dnafeat_command(python, *command, "--store", store)
        assert (code, err) == (0, ""), command
    assert (tmp_path / "out.parquet").exists()


def test_small_tables_are_made_and_joined(python: Path, tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    fill(store, ENTRIES, tmp_path)
    for subject in ("s1", "s2"):
        np.save(tmp_path / f"{subject}.npy", np.arange(3.0))
    scans = [str(tmp_path / f"{subject}.npy") for subject in ("s1", "s2")]
    code, _, err = dnafeat_command(python, "partner", "generic", *scans, "--output", str(tmp_path / "brain"))
    assert (code, err) == (0, "")
    command = ["join", "--store", store, "--partner", f"brain={tmp_path}/brain", "--key", "brain=subject_id", "--on", "subject"]
    code, out, err = dnafeat_command(python, *command, "--output", str(tmp_path / "joined"))
    assert (code, err) == (0, "")
    assert out.startswith("2 rows in version 0")


@pytest.mark.parametrize(
    "command",
    [
        ["embed", "a.csv", "--store", "store"],
        ["finetune", "--train", "a.csv", "--output", "out"],
        ["demo"],
        ["model-info", "dnafeat-mini"],
    ],
)
def test_a_command_that_needs_the_extras_says_how_to_get_them(python: Path, tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "a.csv").write_text("id,sequence,label\na,ACGT,x\n")
    code, out, err = dnafeat_command(python, *[str(tmp_path / one) if one == "a.csv" else one for one in command])
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "pip install 'dnafeat[jobs]'" in err
