"""The contracts in schemas/*.json: each loads, says what it is, and becomes the Arrow types that readers are promised."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable, Schema

from dnafeat import storage
from dnafeat.store import Store
from dnafeat.store.schema import ON_DEMAND, TABLES, arrow_schema, delta_schema, joined_schema, without_metadata
from dnafeat.vectors import PROJECTED_WIDTH, VECTORS

FILES = sorted((Path(__file__).parents[2] / "schemas").glob("*.json"))
TYPES = {
    "features": {
        "sequence_digest": pa.string(),
        "feature_version": pa.string(),
        **{name: pa.list_(pa.field("element", pa.float32())) for name in ("cls", "mean", "max", "projected")},
        "bases": pa.int64(),
        "tokens": pa.int64(),
        "windows": pa.int32(),
        "run_id": pa.string(),
    },
    "sequences": {
        "source_name": pa.string(),
        "sequence_id": pa.string(),
        "sequence_digest": pa.string(),
        "from_run": pa.int64(),
        "until_run": pa.int64(),
    },
    "versions": {
        "feature_version": pa.string(),
        "event": pa.string(),
        "name": pa.string(),
        "parent": pa.string(),
        "lineage": pa.string(),
        "recorded_at": pa.timestamp("us", "UTC"),
        "run_id": pa.string(),
    },
    "rejects": {
        "run_id": pa.string(),
        "source_name": pa.string(),
        "file": pa.string(),
        "row": pa.int64(),
        "sequence_id": pa.string(),
        "reason": pa.string(),
        "text": pa.string(),
    },
    "runs": {
        "run_id": pa.string(),
        "run_number": pa.int64(),
        "source_name": pa.string(),
        "source_fingerprint": pa.string(),
        "config_digest": pa.string(),
        "feature_version": pa.string(),
        "started_at": pa.timestamp("us", "UTC"),
        "finished_at": pa.timestamp("us", "UTC"),
        **{name: pa.int64() for name in ("read", "rejected", "distinct", "already_stored", "encoded", "opened", "closed")},
        **{name: pa.int64() for name in ("files", "bytes", "tokens")},
        "seconds": pa.float64(),
        **{f"{name}_version": pa.int64() for name in ("features", "sequences", "rejects")},
        "config": pa.string(),
        "environment": pa.string(),
        "profile": pa.string(),
    },
}


def test_every_table_has_a_contract() -> None:
    assert {file.name.split(".")[0] for file in FILES} == {*TABLES, *ON_DEMAND, "joined"}


def test_the_contract_of_a_joined_table_names_its_columns_after_key_and_modalities() -> None:
    schema = joined_schema("subject_id", ["gene_id"], ["dna", "brainlm"], ["dna"])
    vector = pa.list_(pa.field("element", pa.float32()))
    assert without_metadata(schema) == pa.schema(
        [
            pa.field("subject_id", pa.string(), nullable=False),
            ("gene_id", pa.string()),
            ("dna", vector),
            pa.field("has_dna", pa.bool_(), nullable=False),
            pa.field("dna_rows", pa.int64(), nullable=False),
            ("dna_mask", pa.list_(pa.field("element", pa.bool_()))),
            ("brainlm", vector),
            pa.field("has_brainlm", pa.bool_(), nullable=False),
            pa.field("brainlm_rows", pa.int64(), nullable=False),
        ]
    )
    comments = {field.name: field.metadata["comment"] for field in schema.fields}
    assert "null where has_brainlm is false" in comments["brainlm"]
    assert not any("{" in comment for comment in comments.values())


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_contract_loads_and_comments_every_field(file: Path) -> None:
    schema = Schema.from_json(file.read_text())
    assert [field.name for field in schema.fields] == [field["name"] for field in json.loads(file.read_text())["fields"]]
    for field in schema.fields:
        assert field.metadata["comment"], field.name


@pytest.mark.parametrize("table", TABLES)
def test_arrow_types_are_the_documented_ones(table: str) -> None:
    schema = arrow_schema(table)
    assert dict(zip(schema.names, schema.types, strict=True)) == TYPES[table]
    assert all(field.metadata is None for field in schema)
    nullable = {field.name for field in schema if field.nullable}
    assert nullable == {field.name for field in delta_schema(table).fields if field.nullable}


def test_vectors_are_the_list_columns_of_features() -> None:
    assert tuple(field.name for field in arrow_schema("features") if pa.types.is_list(field.type)) == VECTORS
    assert PROJECTED_WIDTH == 512


def test_comments_and_nullability_stand_in_the_created_tables(store_uri: str) -> None:
    Store(store_uri).create()
    for table in TABLES:
        found = DeltaTable(f"{store_uri}/{table}", storage_options=storage.delta_options(store_uri)).schema()
        wanted = delta_schema(table)
        assert [(f.name, f.nullable, f.metadata["comment"]) for f in found.fields] == [
            (f.name, f.nullable, f.metadata["comment"]) for f in wanted.fields
        ]
        assert [f.type for f in found.fields] == [f.type for f in wanted.fields]
