"""Quoted fields with line ends, stray quotes and blanks: every record as the reference reads it."""

import csv
import io
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.settings import validate
from pipeline.ingest import delimited
from pipeline.ingest.clickstream import ClickstreamSourceSettings
from pipeline.ingest.dialect import Layout
from pipeline.ingest.text_source import TextSource
from pipeline.stages.ingest import ingest
from tests.ingest import csv_reference

COLUMNS = {"session_id": "s", "item_id": "i", "timestamp": "t"}
HEADER = b"a,b,c\n"


def records(data: bytes, folder: Path, separator: str, block: int, limit: int) -> list:
    """What is read of ``data`` in blocks: (line, fields or None)."""
    path = folder / "a.csv"
    path.write_bytes(data)
    source = TextSource(path)
    layout = Layout(separator, '"', ["a", "b", "c"], ["a", "b", "c"])
    output = []
    for piece in delimited.pieces(source, layout, block, limit):
        rows = delimited.read_rows(piece, ["a", "b", "c"], limit)
        if len(rows.lines):
            columns = [rows.arrays[name].to_pylist() for name in "abc"]
            output += zip(rows.lines.tolist(), zip(*columns, strict=True), strict=True)
        output += [(bad.line, None) for bad in rows.bad]
    source.close()
    return sorted(output, key=lambda record: record[0])


def expected(data: bytes, separator: str, limit: int) -> list:
    read = csv_reference.read(data, separator, 3, limit, 1)
    return [(record.lines[0], record.fields) for record in read]


PARTS = st.sampled_from([*"a5 \t\n\n\r,,", "\r\n", '"', '""', '","', '"\n"', '",', ' "', "x,y,z\n"])


@settings(max_examples=500, deadline=None)
@given(
    st.lists(PARTS, max_size=40).map("".join),
    st.sampled_from([",", ";", "\t"]),
    st.sampled_from([1, 7, 30, 1000]),
    st.sampled_from([8, 20, 1000]),
)
def test_any_text(tmp_path_factory, text, separator, block, limit):
    data = text.replace(",", separator).encode()
    folder = tmp_path_factory.getbasetemp()
    if b"\r" in data.rstrip(b"\r") and b"\n" not in data:
        return  # refused
    assert records(data, folder, separator, block, limit) == expected(data, separator, limit)


VALUE = st.text(st.sampled_from('ab5",;\n\r\t é#'), max_size=12)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(VALUE, VALUE, VALUE), min_size=1, max_size=12),
    st.sampled_from([",", ";", "\t", "|"]),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from([5, 40, 10_000]),
)
def test_what_a_writer_quotes_comes_back(tmp_path_factory, rows, separator, end, block):
    out = io.StringIO()
    writer = csv.writer(out, delimiter=separator, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerows(rows)
    data = out.getvalue().encode()
    output = records(data, tmp_path_factory.getbasetemp(), separator, block, 5000)
    assert [fields for _, fields in output] == rows
    ends = [1 + "".join(row).count("\n") for row in rows]
    assert [line for line, _ in output] == [1 + sum(ends[:n]) for n in range(len(rows))]


def test_what_follows_an_open_quote_is_no_event(run, write):
    text = 's,i,t,note\n1,2,1569931200,"see\n9,999,1569931200,old"\n3,4,1569931201,x\n'
    result = run("sessions", write("a.csv", text), columns=COLUMNS, max_bad_fraction=0)
    assert [(row["session_id"], row["item_id"]) for row in result.rows] == [(1, 2), (3, 4)]
    assert result.manifest["rows_read"] == 2


def test_a_stray_quote_costs_the_lines_up_to_where_it_shows(run, write):
    rows = [f'{n},{n},{1569931200 + n},"note {n}"' for n in range(200)]
    rows[50] = f'50,"50,{1569931200 + 50},note'
    text = "\n".join(["s,i,t,note", *rows]) + "\n"
    result = run("sessions", write("a.csv", text), columns=COLUMNS)
    assert [row["item_id"] for row in result.rows] == [*range(50), *range(52, 200)]
    (first, reason), (second, more) = result.reasons
    assert (first, second) == (52, 53)
    assert "is not closed" in reason and "setting quote" in reason
    assert more.startswith("part of the malformed record of line 52")


def test_a_quote_that_is_never_closed_ends_at_the_limit(run, write):
    rows = [f"{n},{n},{1569931200 + n},note {n}" for n in range(500)]
    rows[50] = f'50,50,{1569931200 + 50},"note'
    text = "\n".join(["s,i,t,note", *rows]) + "\n"
    for block in (64, 1000, 1 << 20):
        limits = {"max_line_bytes": 1000, "block_bytes": block}
        result = run("sessions", write("a.csv", text), columns=COLUMNS, **limits)
        kept = [row["item_id"] for row in result.rows]
        after = text.encode().find(b"\n", text.index("50,50") + 1000)
        first = int(text[after + 1 :].partition(",")[0])
        assert kept == [*range(50), *range(first, 500)]
        assert [line for line, _ in result.reasons] == [*range(52, first + 2)]


@pytest.mark.parametrize(("block", "workers"), [(100, 1), (100, 3), (4000, 1), (4000, 3)])
def test_the_output_does_not_depend_on_blocks_or_workers(tmp_path, block, workers):
    rows = [[n, n % 50, 1569931200 + n, f'"{n}"\nof, {n}' * (n % 3)] for n in range(400)]
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([["s", "i", "t", "note"], *rows])
    path = tmp_path / "a.csv"
    path.write_text(out.getvalue())
    tree = {
        "columns": COLUMNS,
        "extra_categorical": ["note"],
        "block_bytes": block,
        "workers": workers,
        "rows_per_shard": 90,
        "max_bad_fraction": 0,
    }
    checked = validate(ClickstreamSourceSettings, tree, "test")
    record = ingest("sessions", checked, path, tmp_path / "raw")
    tables = [pq.read_table(tmp_path / "raw" / shard["file"]) for shard in record["shards"]]
    notes = [row["note"] or "" for table in tables for row in table.to_pylist()]
    assert notes == [row[3] for row in rows]


@pytest.mark.parametrize("separator", [",", ";", "|", "::"])
def test_blanks_around_fields_are_none_of_theirs(run, write, separator):
    rows = ["s , i, t", ' 1 ,  "a b " , 1569931200 ', "2,b c,1569931201  ", ' 3 , " ",1569931202']
    if separator == "::":
        rows = [row.replace('"', "") for row in rows]
    text = "".join(row.replace(",", separator) + "\r\n" for row in rows)
    result = run("sessions", write("a.csv", text), columns=COLUMNS, null_values=["", "a b "])
    plain = separator == "::"
    assert [row["item_id"] for row in result.rows] == (["a b", "b c"] if plain else ["b c", " "])
    assert [row["session_id"] for row in result.rows] == ([1, 2] if plain else [2, 3])


def test_quotes_after_a_backslash_are_named(run, write):
    text = "s,i,t,note\n" + "".join(f'{n},2,1569931200,"27\\" flat, wide"\n' for n in range(3))
    result = run("sessions", write("a.csv", text + "9,9,1569931200,x\n"), columns=COLUMNS)
    assert all("a backslash before" in reason for _, reason in result.reasons)
    assert len(result.reasons) == 3
