"""Features that grew beside those of the same log at once: what both must agree in."""

import itertools
import os

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from core.artifacts import read_json, write_json
from core.merlin import schema_from_json

TOLERANCE = 1e-5


def take_shards(raw, folder, wanted):
    """Some shards of a raw log as a raw log of their own."""
    folder.mkdir()
    manifest = read_json(raw / "manifest.json")
    shards = [manifest["shards"][number] for number in wanted]
    for shard in shards:
        os.link(raw / shard["file"], folder / shard["file"])
    write_json(folder / "manifest.json", {**manifest, "shards": shards})
    return folder


def vocabularies(features):
    """Values in the order of their codes, by the name under which they are kept."""
    found = {}
    for path in (features / "state").rglob("unique.*.parquet"):
        found[path.name.split(".")[1]] = pq.read_table(path)["value"].to_pylist()
    return found


def statistics(features):
    """All that the state holds but the order of codes: tables and numbers by file and operator."""
    tables = {}
    for path in (features / "state").rglob("*.parquet"):
        frame = pl.read_parquet(path)
        rows = sorted(frame.rows(), key=str)
        tables[str(path.relative_to(features))] = [row for row in rows if row[0] is not None]
    operators = read_json(features / "state" / "state.json")["operators"]
    numbers = [
        (entry["operator"], entry["state"].get("moments") or entry["state"].get("ranges"))
        for entry in operators
    ]
    return tables, numbers


def assert_same_statistics(a, b):
    """The same counts, sums and vocabularies, moments up to rounding."""
    (tables, numbers), (others, other_numbers) = statistics(a), statistics(b)
    assert tables.keys() == others.keys()
    for name in tables:
        assert len(tables[name]) == len(others[name]), name
        for row, other in zip(tables[name], others[name], strict=True):
            assert row == other or np.allclose(row[-1], other[-1], rtol=1e-12), name
    for (operator, found), (_, expected) in zip(numbers, other_numbers, strict=True):
        for column in found or {}:
            np.testing.assert_allclose(
                found[column], expected[column], rtol=1e-9, err_msg=f"{operator} {column}"
            )


def read(features, split):
    return pl.concat(pl.read_parquet(p) for p in sorted((features / split).glob("*.parquet")))


def decoded(features, split, groups=()):
    """The features with values of the raw log for codes, ``(code)`` for reserved ones."""
    frame = read(features, split)
    columns = schema_from_json((features / "schema.json").read_text())
    found = vocabularies(features)
    shared = {name: "_".join(group) for group in groups for name in group}
    out = {}
    for name in frame.columns:
        values = found.get(shared.get(name, name))
        column = frame[name]
        if values is None:
            out[name] = column
            continue
        first = 2 + int(columns[name].properties.get("num_buckets") or 1)
        table = [f"({code})" for code in range(first)] + [str(value) for value in values]
        listed = column.dtype == pl.List
        flat = column.explode() if listed else column
        texts = pl.Series(name, [table[code] for code in flat.to_list()], dtype=pl.String)
        if listed:
            lengths = column.list.len().to_list()
            cuts = np.cumsum([0, *lengths])
            texts = pl.Series(name, [texts[a:b].to_list() for a, b in itertools.pairwise(cuts)])
        out[name] = texts
    return pl.DataFrame(out)


def assert_same_rows(found, expected):
    """Equal columns; numbers up to float32's rounding."""
    assert found.columns == expected.columns and len(found) == len(expected)
    for name in found.columns:
        a, b = found[name], expected[name]
        if a.dtype == pl.List and a.dtype.inner.is_float():
            assert (a.list.len() == b.list.len()).all(), name
            a, b = a.explode(), b.explode()
        if a.dtype.is_float():
            np.testing.assert_allclose(a, b, atol=TOLERANCE, err_msg=name)
        else:
            assert a.to_list() == b.to_list(), name
