"""The cluster file passes Ray's own validation, and names a machine for every node type, which that validation does not ask for."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

FILE = Path(__file__).parent.parent / "cluster.yaml"


@pytest.fixture
def cluster() -> dict[str, Any]:
    return yaml.safe_load(FILE.read_text())


def test_the_cluster_file_is_valid_and_every_node_type_names_a_machine(cluster: dict[str, Any]) -> None:
    validate_config(prepare_config(copy.deepcopy(cluster)))
    machines = {name: node["node_config"].get("InstanceType") for name, node in cluster["available_node_types"].items()}
    assert all(machines.values()), machines


def test_a_misspelt_setting_is_not_valid(cluster: dict[str, Any]) -> None:
    cluster["avaliable_node_types"] = cluster.pop("available_node_types")
    with pytest.raises(jsonschema.ValidationError):
        validate_config(prepare_config(cluster))
