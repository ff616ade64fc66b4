"""The configuration of partner adapters: what is wrong is refused before anything is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dnafeat.cli.main import main
from dnafeat.errors import UsageError
from dnafeat.partners.config import PartnerConfig


def config(kind: str = "brainlm", **changes: Any) -> PartnerConfig:
    return PartnerConfig.make({"kind": kind, "input": ["in"], "output": "out", **changes})


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"kind": "vit"}, "kind 'vit' is none of brainlm, brainmt, swift, generic"),
        ({"input": []}, "name at least one file or folder"),
        ({"kind": "swift", "pool": "mean"}, "pool is for brainlm and brainmt, not for swift: leave it out"),
        ({"kind": "generic", "rows": "tokens"}, "rows is for brainlm and brainmt, not for generic"),
        ({"cls_index": "last"}, "cls_index is for brainmt, not for brainlm"),
        ({"kind": "brainmt", "timepoints": 200}, "timepoints is for brainlm, not for brainmt"),
        ({"kind": "brainmt", "tokens": 5}, "tokens is for brainlm, not for brainmt"),
        ({"pool": "max"}, "pool 'max' is neither cls nor mean"),
        ({"rows": "windows"}, "rows 'windows' is neither tokens nor vectors"),
        ({"kind": "brainmt", "cls_index": "-1"}, "cls_index '-1' is none of first, last, middle or a number from 0"),
        ({"kind": "brainmt", "cls_index": "1", "rows": "vectors"}, "cls_index is given, and rows are vectors"),
        ({"patch": 0}, "patch 0 is too low: give 1 or more"),
        ({"timepoints": 160, "tokens": 3393}, "timepoints and tokens both give"),
        ({"timepoints": 150}, "timepoints 150 are no multiple of the 20 of a token"),
        ({"timepoints": 0}, "timepoints 0 are no multiple"),
        ({"tokens": 1}, "tokens 1 is too low: give 2 or more"),
        ({"width": 0}, "width 0 is too low: give 1 or more"),
        ({"id_from": "path"}, "id_from 'path' is neither name nor folder"),
        ({"id_pattern": "("}, "id_pattern '(' is no regular expression: missing ), unterminated subpattern at position 0"),
        ({"id_pattern": r"(\d+)"}, r"id_pattern '(\\d+)' has no group subject"),
        ({"id_pattern": "(?P<subject>.)(?P<visit>.)"}, "id_pattern '(?P<subject>.)(?P<visit>.)' names the group visit"),
        ({"skip_bad": "yes"}, "skip_bad must be true or false"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError) as error:
        config(**changes)
    assert str(error.value).startswith(sentence)
    assert "\n" not in str(error.value)


def test_pooling_is_told_in_a_word() -> None:
    words = {kind: config(kind).pooling() for kind in ("brainlm", "brainmt", "swift", "generic")}
    assert words == {"brainlm": "cls", "brainmt": "cls", "swift": "average", "generic": "none"}
    assert config("brainmt", pool="mean").pooling() == "mean"


def test_settings_come_from_a_file_and_flags_win(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "a.npy", np.ones(3))
    yaml = tmp_path / "partner.yaml"
    yaml.write_text(f"kind: generic\ninput: {tmp_path / 'a.npy'}\noutput: {tmp_path / 'x.parquet'}\nwidth: 4\n")
    assert main(["partner", "--config", str(yaml)]) == 2
    assert "is 3 wide and not 4" in capsys.readouterr().err
    assert main(["partner", "--config", str(yaml), "--width", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["width"] == 3
    assert main(["partner", "generic", str(tmp_path / "a.npy")]) == 2
    assert capsys.readouterr().err == "dnafeat: output is missing: give --output\n"
