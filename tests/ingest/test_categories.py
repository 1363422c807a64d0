"""Columns with several categories a row: what ingest makes of lists and texts, against Python."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.errors import UserError

COLUMNS = {"labels": ["click"], "multi_valued": ["tags"]}
VALUES = {
    "integers": [0, 1, -5, 117, 2**53 + 1, -(2**63)],
    "texts": ["Action", "Film-Noir", "a,b", 'a "b"', "Ümläut ☂", "007", "5.0", "nan", "x y"],
}
NAMES = ("csv", "jsonl", "parquet", "large", "text.parquet", "text.jsonl")


def rows_of(seed, kind):
    """Lists with repetitions, empty ones, missing ones."""
    rng = np.random.default_rng(seed)
    known = VALUES[kind]
    rows = [
        [known[at] for at in rng.integers(0, len(known), rng.integers(0, 5))] for _ in range(60)
    ]
    return [None if rng.random() < 0.1 else row for row in rows]


def written(folder, name, rows, separator):
    path = folder / f"log.{name}"
    joined = [None if row is None else separator.join(map(str, row)) for row in rows]
    if name == "csv":
        quoted = ('"' + (text or "").replace('"', '""') + '"' for text in joined)
        path.write_text("\n".join(["click,tags", *(f"{i % 2},{t}" for i, t in enumerate(quoted))]))
    elif name.endswith("jsonl"):
        values = joined if name.startswith("text") else rows
        lines = (json.dumps({"click": i % 2, "tags": v}) for i, v in enumerate(values))
        path.write_text("\n".join(lines))
    else:
        element = (
            pa.int64() if any(isinstance(v, int) for r in rows for v in r or ()) else pa.string()
        )
        lists = pa.large_list(element) if name == "large" else pa.list_(element)
        tags = pa.array(joined) if name.startswith("text") else pa.array(rows, lists)
        path = path.with_suffix(".parquet")
        pq.write_table(pa.table({"click": [i % 2 for i in range(len(rows))], "tags": tags}), path)
    return path


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("seed", range(3))
def test_every_format_gives_the_same_lists(run, tmp_path, seed, kind):
    rows, separator = rows_of(seed, kind), ["|", "; ", "::"][seed]
    expected = [row or None for row in rows]  # an empty list is a missing one
    for name in NAMES:
        path = written(tmp_path, name, rows, separator)
        result = run("ranking", path, columns=COLUMNS, multi_value_separator=separator)
        element = pa.int64() if kind == "integers" else pa.string()
        assert result.table.schema.field("tags").type == pa.list_(element), name
        assert result.table["tags"].to_pylist() == expected, name
        assert result.manifest["resolved"]["types"] == {
            "tags": "integer" if kind == "integers" else "string"
        }


def test_blanks_empty_parts_and_missing_values_are_left_out(run, write):
    path = write("log.csv", "click,tags\n0, a | b||\n1,|\n0,-|c\n1,-\n0,\n")
    result = run("ranking", path, columns=COLUMNS, null_values=["", "-"])
    assert result.table["tags"].to_pylist() == [["a", "b"], None, ["c"], None, None]


def test_json_lines_of_all_forms(run, write):
    lines = [
        ["a", None, ""],
        "b|c",
        5,
        None,
        [1.0, 2],
        [["x"]],
        [{"k": 1}],
        [True],
        [],
        ["ü", "a|b"],
    ]
    text = "\n".join(json.dumps({"click": i % 2, "tags": v}) for i, v in enumerate(lines))
    result = run("ranking", write("log.jsonl", text), columns=COLUMNS)
    assert result.table["tags"].to_pylist() == [
        *(["a"], ["b", "c"], ["5"], None, ["1", "2"], ['["x"]'], ['{"k": 1}'], ["true"], None),
        ["ü", "a|b"],
    ]


def test_a_path_through_lists_of_objects(run, write):
    lines = [[{"id": 1, "name": "Action"}, {"id": 2, "name": "Drama"}], [], None, [{"id": 3}]] * 30
    text = "\n".join(json.dumps({"click": i % 2, "genres": v}) for i, v in enumerate(lines))
    columns = {"labels": ["click"], "multi_valued": ["genres.name"]}
    result = run("ranking", write("log.jsonl", text), columns=columns)
    assert result.table["genres.name"].to_pylist() == [["Action", "Drama"], None, None, None] * 30


def test_a_later_text_among_integers_makes_all_texts(run, write):
    lines = [f"{i % 2},{i}|{i + 1}" for i in range(2000)]
    path = write("log.csv", "\n".join(["click,tags", *lines, "1,7|x"]))
    result = run("ranking", path, columns=COLUMNS, block_bytes=4096)
    assert result.table["tags"].to_pylist()[-2:] == [["1999", "2000"], ["7", "x"]]


def test_bad_values_are_quarantined_by_file_line_and_column(run, write):
    path = write("log.csv", "click,tags\n0,1|2\n1,3|x\n0,4|007\n1,5\n")
    result = run("ranking", path, columns=COLUMNS, types={"tags": "integer"})
    assert result.table["tags"].to_pylist() == [[1, 2], [5]]
    assert [line["line"] for line in result.bad] == [3, 4]
    assert "tags: not a 64-bit integer (setting types.tags" in result.bad[0]["reason"]
    assert "'3|x'" in result.bad[0]["reason"]


def test_numbers_that_a_float_may_have_rounded(run, tmp_path):
    rows = [[1.0, 2.0], [float(2**53 + 2)], [float("nan")], None]
    pq.write_table(pa.table({"click": [0, 1, 0, 1], "tags": rows}), tmp_path / "log.parquet")
    result = run("ranking", tmp_path / "log.parquet", columns=COLUMNS, types={"tags": "integer"})
    assert result.table["tags"].to_pylist() == [[1, 2], None, None]
    assert "not exact" in result.bad[0]["reason"]


@pytest.mark.parametrize("kind", [pa.list_(pa.list_(pa.int64())), pa.struct([("a", pa.int64())])])
def test_a_type_without_a_conversion_is_named(run, tmp_path, kind):
    table = pa.table({"click": [0, 1], "tags": pa.nulls(2, kind)})
    pq.write_table(table, tmp_path / "log.parquet")
    with pytest.raises(
        UserError, match=r"column 'tags' \(setting columns.multi_valued\) is .*list"
    ):
        run("ranking", tmp_path / "log.parquet", columns=COLUMNS)
