"""One raw log through a workflow on the host and on a GPU, and what both must have in common."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from core.artifacts import read_json


def tables(folder, split):
    return [pq.read_table(path) for path in sorted((folder / split).glob("*.parquet"))]


def assert_same_features(host, device):
    """Equal rows, part by part: codes, ids and times exactly, floats but for the last digits."""
    for split in ("train", "valid", "test"):
        both = list(zip(tables(host, split), tables(device, split), strict=True))
        assert both or split != "train"
        for expected, found in both:
            assert found.column_names == expected.column_names
            for name in expected.column_names:
                assert_same_column(name, expected[name], found[name])


def assert_same_column(name, expected, found):
    assert found.null_count == expected.null_count == 0, name
    expected, found = expected.combine_chunks(), found.combine_chunks()
    if pa.types.is_list(expected.type):
        assert found.value_lengths().equals(expected.value_lengths()), name
        expected, found = expected.flatten(), found.flatten()
    assert found.type == expected.type, name
    if pa.types.is_floating(expected.type):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6, err_msg=name)
    else:
        assert found.equals(expected), name


def assert_same_state(host, device):
    """The same vocabularies, counts and schema; statistics to 1e-6."""
    assert read_json(device / "schema.json") == read_json(host / "schema.json")
    manifests = [read_json(folder / "manifest.json") for folder in (host, device)]
    for manifest in manifests:  # Equal but for floats' last digits: other sums.
        del manifest["sha256"]
        manifest["checksums"] = list(manifest["checksums"])
    assert manifests[0] == manifests[1]
    states = [read_json(folder / "state" / "state.json") for folder in (host, device)]
    assert_close(*(state["operators"] for state in states))
    assert states[0]["schemas"] == states[1]["schemas"]
    files = [
        sorted(path.relative_to(folder / "state") for path in (folder / "state").rglob("*.parquet"))
        for folder in (host, device)
    ]
    assert files[0] == files[1]
    for name in files[0]:
        expected, found = (pq.read_table(folder / "state" / name) for folder in (host, device))
        assert found.schema.equals(expected.schema), name
        for column in expected.column_names:
            assert_same_column(f"{name} {column}", *(_filled(t[column]) for t in (expected, found)))


def _filled(column):
    """Nulls as a value, for they stand in tables of the state."""
    if column.null_count:
        null = "null" if pa.types.is_string(column.type) else -(2**61)
        column = column.fill_null(null)
    return column


def assert_close(expected, found):
    """JSON whose numbers agree to 1e-6."""
    if isinstance(expected, dict):
        assert expected.keys() == found.keys()
        for key in expected:
            assert_close(expected[key], found[key])
    elif isinstance(expected, list):
        for one, other in zip(expected, found, strict=True):
            assert_close(one, other)
    elif isinstance(expected, float):
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-12)
    else:
        assert json.dumps(expected) == json.dumps(found)
