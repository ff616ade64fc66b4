"""What leaves this machine with a job, a cluster or an image: code and settings, and never keys, salts or stores."""

from __future__ import annotations

import re
import shutil
import subprocess
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
from ray._private.runtime_env.packaging import create_package

from dnafeat.embed.submit import LEFT_OUT

ROOT = Path(__file__).parents[2]
FOLDERS = ("dnafeat", "jobs", "schemas")
SECRETS = [
    *(".env", ".aws/credentials", "salt.txt", "cohort.salt", "salt", "private.key", "token", "id_rsa", ".netrc", "secrets.yaml"),
    *(
        "credentials.json",
        "auth_token",
        "server.pem",
        "store/_delta_log/00000.json",
        "store/features/a.parquet",
        "pool.fa",
        "cohort.csv",
    ),
    *("projector.safetensors", "password", "notes.txt", "salts/a.yaml"),
]


def tracked() -> set[str]:
    done = subprocess.run(["git", "ls-files", *FOLDERS], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("this is no clone")
    # Pages and what Grafana imports are of no use to a job; they may go along or not.
    return {name for name in done.stdout.split() if not name.endswith(".md")}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the repository's code, with secrets in every place."""
    folder = tmp_path / "clone"
    for name in FOLDERS:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("constraints.txt", "pyproject.toml", ".rayignore", ".gitignore", "cluster.yaml"):
        shutil.copy(ROOT / name, folder / name)
    for place in (".", "jobs", "dnafeat", "dnafeat/embed", "schemas", "mine"):
        for name in SECRETS:
            (folder / place / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / place / name).write_text("secret")
    return folder


def sent(folder: Path, excludes: Sequence[str]) -> set[str]:
    """What Ray packs of a folder."""
    package = folder.parent / "package.zip"
    create_package(str(folder), package, include_gitignore=True, excludes=list(excludes))
    with zipfile.ZipFile(package) as archive:
        return {name for name in archive.namelist() if not name.endswith("/")}


@pytest.mark.parametrize("excludes", [(), LEFT_OUT])
def test_a_job_takes_code_and_settings_along_and_no_secret(folder: Path, excludes: Sequence[str]) -> None:
    names = sent(folder, excludes)
    assert [name for name in names if (folder / name).read_bytes() == b"secret"] == []
    assert {name for name in names if not name.endswith(".md")} == tracked() | {
        "constraints.txt",
        "pyproject.toml",
        "cluster.yaml",
    }


def test_any_other_folder_is_sent_without_what_may_be_a_secret(tmp_path: Path) -> None:
    folder = tmp_path / "own"
    for name in [*SECRETS, "job.py", "steps/salting.py", "night.yaml", "requirements.txt"]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("secret" if name in SECRETS else "code")
    assert sent(folder, LEFT_OUT) == {"job.py", "steps/salting.py", "night.yaml", "requirements.txt"}


@pytest.mark.skipif(shutil.which("rsync") is None, reason="rsync is not here")
def test_a_cluster_gets_what_git_tracks_and_no_secret(folder: Path, tmp_path: Path) -> None:
    cluster = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    flags = [f"--exclude={pattern}" for pattern in cluster["rsync_exclude"]]
    for name in ("README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    for local in cluster["file_mounts"].values():
        subprocess.run(["rsync", "-r", *flags, local, str(tmp_path / "node/")], cwd=folder, check=True)
    there = {str(path.relative_to(tmp_path / "node")) for path in (tmp_path / "node").rglob("*") if path.is_file()}
    # Of what somebody puts into a folder of code, what is no secret by its name goes along.
    assert {name for name in there if re.search(r"salt\.txt|\.env|\.key|credential|id_rsa|_delta_log|\.parquet", name)} == set()
    assert tracked() <= there


def test_neither_the_cluster_nor_the_image_takes_a_whole_folder() -> None:
    assert "." not in yaml.safe_load((ROOT / "cluster.yaml").read_text())["file_mounts"].values()
    copied = re.findall(r"^# +COPY (.*) \S+$", (ROOT / "jobs" / "kuberay.yaml").read_text(), re.MULTILINE)
    assert [one.split() for one in copied] == [
        ["LICENSE", "README.md", "constraints.txt", "pyproject.toml"],
        *([name] for name in FOLDERS),
    ]
