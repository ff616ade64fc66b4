"""How the tree is kept: no long module, no file that repeats its package's name, no two public classes of one name."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import mutants
import pytest

import dnafeat

ROOT = Path(dnafeat.__file__).parent
MODULES = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.py"))
LONGEST = 400  # lines


def test_no_module_is_long() -> None:
    sizes = {str(path): len((ROOT / path).read_text().splitlines()) for path in MODULES}
    assert {path: size for path, size in sizes.items() if size > LONGEST} == {}


def test_no_file_repeats_the_name_of_its_package() -> None:
    repeated = [str(path) for path in MODULES if set(path.stem.split("_")) & set(path.parent.parts)]
    assert repeated == []


def test_no_two_public_classes_have_one_name() -> None:
    found = defaultdict(list)
    for path in MODULES:
        for node in ast.parse((ROOT / path).read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found[node.name].append(str(path))
    assert {name: paths for name, paths in found.items() if len(paths) > 1} == {}


@pytest.mark.parametrize("mutant", mutants.MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_changes_one_place_of_the_tree(mutant: mutants.Mutant) -> None:
    assert mutants.count(mutant, ROOT.parent) == 1
