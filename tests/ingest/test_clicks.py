"""Click logs with columns of one's own."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.errors import UserError
from core.settings import validate
from pipeline.ingest.clicks import ClickSourceSettings
from pipeline.ingest.labels import NOT_A_LABEL

COLUMNS = {
    "labels": ["click", "buy"],
    "categorical": ["user", "page"],
    "continuous": ["price"],
    "vectors": ["title"],
}
ROWS = [
    {"click": 1, "buy": 0, "user": 7, "page": "a,b 🎬", "price": -1.5, "title": [0.5, 1.0]},
    {"click": 0, "buy": 0, "user": None, "page": "0x1f", "price": None, "title": None},
    {"click": 1, "buy": 1, "user": -8, "page": "", "price": 2.0, "title": [2.0, 3.0]},
]


def as_text(row):
    quoted = '"' + (row["page"] or "") + '"'
    cells = [row[name] for name in ("click", "buy", "user")]
    cells = ["" if cell is None else str(cell) for cell in cells]
    vector = " ".join(str(value) for value in row["title"] or [])
    price = "" if row["price"] is None else str(row["price"])
    return ",".join([vector, *cells, quoted, "unread", price])


def files(write, tmp_path):
    text = "\n".join(["title,click,buy,user,page,other,price", *map(as_text, ROWS)])
    table = pa.Table.from_pylist(ROWS).set_column(0, "click", pa.array([True, False, True]))
    pq.write_table(table, tmp_path / "a.parquet")
    jsonl = "\n".join(json.dumps(row) for row in ROWS)
    return {"csv": write("a.csv.gz", text), "jsonl": write("a.jsonl", jsonl)} | {
        "parquet": tmp_path / "a.parquet"
    }


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_every_form_gives_the_same_rows(run, write, tmp_path, kind):
    result = run("ranking", files(write, tmp_path)[kind], columns=COLUMNS, max_bad_fraction=0)
    expected = [{**row, "page": row["page"] or None} for row in ROWS]
    assert result.rows == expected
    assert result.table.schema.field("click").type == pa.int8()
    assert result.manifest["format"] == "clicks"
    # What is scored later is read with these types, whatever its own beginning shows.
    assert result.manifest["resolved"]["types"] == {"user": "integer", "page": "string"}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("2,0,7,p,1,1 2", f"click: {NOT_A_LABEL}: '2'"),
        ("seen,0,7,p,1,1 2", f"click: {NOT_A_LABEL}: 'seen'"),
        (",0,7,p,1,1 2", "click: missing"),
        ("1,,7,p,1,1 2", "buy: missing"),
        ("1,0,7,p,cheap,1 2", "price: not a finite number: 'cheap'"),
        ("1,0,7,p,1,1 2 3", "title: not a vector of 2 finite numbers: '1 2 3'"),
        ("1,0,7,p,1", "expected 6 fields separated by a comma, found 5"),
    ],
)
def test_a_bad_line_is_set_aside_with_its_reason(run, write, line, reason):
    good = ["1,0,7,p,1.5,1 2"] * 30
    text = "\n".join(["click,buy,user,page,price,title", *good, line, *good])
    result = run("ranking", write("a.csv", text), columns=COLUMNS)
    assert result.reasons == [(32, reason)] and len(result.rows) == 60


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"columns": {"labels": []}}, "labels"),
        ({"columns": {"labels": ["a"]}}, "at least one categorical or continuous"),
        ({"columns": {"labels": ["a"], "continuous": ["a"]}}, "a: a column can be read as one"),
        ({"columns": {"labels": ["a"], "continuous": ["training"]}}, "cannot be called 'training'"),
        ({"columns": {"labels": ["a"], "categorical": ["b"]}, "types": {"c": "string"}}, "types.c"),
        ({"format": "csv"}, "format is for logs with columns of their own"),
        ({"null_values": ["-"]}, "null_values is for logs with columns of their own"),
        ({"separator": "a"}, "separator must be one ASCII character"),
        ({"separator": "::"}, "separator must be one ASCII character"),
    ],
)
def test_settings_that_do_not_agree(tree, message):
    with pytest.raises(UserError, match=message):
        validate(ClickSourceSettings, tree, "p.yaml")


def test_a_column_that_is_not_there(run, write):
    path = write("a.csv", "click,user\n1,2\n")
    with pytest.raises(UserError, match=r"no column 'page' \(setting columns.categorical\)"):
        run("ranking", path, columns={"labels": ["click"], "categorical": ["user", "page"]})
