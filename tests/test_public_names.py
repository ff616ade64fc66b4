"""What packages hand out: these names and no others, loaded when they are first asked for."""

from __future__ import annotations

import importlib
import subprocess
import sys
from importlib.resources import files

import pytest

PUBLIC = {
    "dnafeat": ["DnafeatError", "Encoder", "Store", "VectorStream", "load_model", "load_tokenizer", "matrix", "neighbours"],
    "dnafeat.align": ["AlignConfig", "align"],
    "dnafeat.bench": ["BenchmarkConfig", "benchmark"],
    "dnafeat.cluster": ["start_ray", "stop_ray"],
    "dnafeat.demo": ["Cohort", "simulate"],
    "dnafeat.effects": ["EffectsConfig", "effects"],
    "dnafeat.embed": ["EmbedConfig", "NightlyConfig", "embed", "nightly"],
    "dnafeat.encoder": ["Encoder", "EncodingConfig", "load_model", "load_tokenizer"],
    "dnafeat.finetune": ["FinetuneConfig", "PredictConfig", "finetune", "predict"],
    "dnafeat.join": ["JoinConfig", "join", "lineage"],
    "dnafeat.partners": ["PartnerConfig", "partner"],
    "dnafeat.pretrain": ["PretrainConfig", "pretrain"],
    "dnafeat.project": ["FitProjectorConfig", "ProjectConfig", "fit_projector", "project"],
    "dnafeat.search": ["NeighboursConfig", "neighbours"],
    "dnafeat.sources": ["ReadOptions", "read", "read_list"],
    "dnafeat.store": ["Store", "VectorStream", "matrix"],
    "dnafeat.training": ["Collate", "Examples", "MicroBatches"],
}


@pytest.mark.parametrize("package", PUBLIC)
def test_a_package_hands_out_its_public_names(package: str) -> None:
    module = importlib.import_module(package)
    assert module.__all__ == PUBLIC[package]
    for name in PUBLIC[package]:
        value = getattr(module, name)
        assert callable(value), f"{package}.{name} is hidden by a module of that name"
        assert name in dir(module)
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'nothing'"):
        _ = module.nothing


def test_a_module_of_a_package_does_not_hide_a_public_name() -> None:
    for package, names in PUBLIC.items():
        folder = files(package)
        assert not [name for name in names if folder.joinpath(f"{name}.py").is_file() or folder.joinpath(name).is_dir()]


def test_importing_packages_loads_neither_torch_nor_ray() -> None:
    code = f"import sys, {', '.join(PUBLIC)}; assert not {{'torch', 'ray', 'transformers', 'pyarrow'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_the_package_is_typed() -> None:
    assert files("dnafeat").joinpath("py.typed").is_file()
