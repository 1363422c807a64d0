"""A Parquet file is read as Arrow reads it, or refused before it takes memory."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core import parquet_bounds
from core.errors import UserError
from core.parquet_bounds import check_bounds, read_bounded, rows_in

KINDS = {"value": (pa.int64(), pa.string()), "count": (pa.int64(),)}


def table_of(values):
    return pa.table({"value": values, "count": np.arange(len(values), dtype=np.int64)})


written = {
    "integers": pa.array(np.arange(5000) * 7919 % 10007),
    "texts": pa.array([f"wört {n % 700}" for n in range(5000)]),
    "nulls": pa.array([None if n % 3 else n for n in range(5000)]),
    "nothing": pa.array([], pa.int64()),
    "one": pa.array(["x"]),
}


@pytest.mark.parametrize("name", written)
@pytest.mark.parametrize("compression", ["zstd", "snappy", "none", "lz4", "gzip"])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("dictionary", [True, False])
def test_what_arrow_writes_is_read(tmp_path, name, compression, version, dictionary):
    table, path = table_of(written[name]), tmp_path / "x.parquet"
    options = {"data_page_version": version, "use_dictionary": dictionary}
    pq.write_table(
        table, path, compression=compression, row_group_size=1700, data_page_size=500, **options
    )
    check_bounds(path, KINDS)
    assert read_bounded(path, KINDS).equals(table) and rows_in(path) == len(table)


def refused(path, message, kinds=KINDS):
    with pytest.raises(UserError, match=message) as error:
        read_bounded(path, kinds)
    assert str(path) in str(error.value)


def test_bombs_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet_bounds, "ALWAYS_ALLOWED", 1 << 20)
    path = tmp_path / "x.parquet"
    constant = pa.table({"value": pa.repeat(7, 10**6), "count": pa.repeat(1, 10**6)})
    for options in ({}, {"use_dictionary": False}, {"compression": "none"}):
        pq.write_table(constant, path, **{"compression": "zstd", **options})
        if path.stat().st_size < 60_000:
            refused(path, "stand for")
    long = pa.table({"value": ["\0" * 100_000] * 1000, "count": range(1000)})
    for dictionary in (True, False):
        pq.write_table(long, path, compression="zstd", use_dictionary=dictionary)
        refused(path, "stand for")


def test_other_columns_types_and_encodings_are_refused(tmp_path):
    path = tmp_path / "x.parquet"
    pq.write_table(table_of(written["one"]).select(["value"]), path)
    refused(path, "expected the columns value, count")
    pq.write_table(pa.table({"value": [1.5], "count": [1]}), path)
    refused(path, "value: expected int64 or string, it is double")
    pq.write_table(pa.table({"value": [[1]], "count": [1]}), path)
    refused(path, "value: expected int64")
    encoding = {"value": "DELTA_BYTE_ARRAY"}
    pq.write_table(table_of(written["one"]), path, use_dictionary=False, column_encoding=encoding)
    refused(path, "header is damaged")
    path.write_bytes(b"PAR1" + bytes(20) + b"PAR1")
    refused(path, "not a whole Parquet file")
    path.write_bytes(b"")
    refused(path, "not a whole Parquet file")
    refused(tmp_path / "absent", "no such file")
    refused(tmp_path, "not a whole Parquet file")


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_altered_byte_is_read_or_refused(tmp_path, data):
    path = tmp_path / "x.parquet"
    name = data.draw(st.sampled_from(["integers", "texts", "nulls"]))
    pq.write_table(table_of(written[name][:60]), path, compression="zstd")
    whole = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(whole)
    try:
        read_bounded(path, KINDS)
    except UserError as error:
        assert str(path) in str(error)
        assert str(error).isprintable()
