"""Folders within folders (date=2021-01-01), and columns that some files lack."""

import random
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import UserError
from pipeline.ingest.inputs import list_inputs

COLUMNS = {"session_id": "s", "item_id": "i", "timestamp": "t"}


def put(path: Path, n: int, kind: str, **more) -> None:
    """One event as a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    row = {"s": n, "i": f"x{n}", "t": 1569931200 + n, **more}
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist([row]), path)
    elif kind == "csv":
        path.write_text(",".join(row) + "\n" + ",".join(map(str, row.values())) + "\n")
    else:
        path.write_text(str(row).replace("'", '"') + "\n")


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_keys_of_folders_are_columns(run, tmp_path, kind):
    log = tmp_path / "log"
    days = ["2021-01-02", "2021-01-10", "2021-01-01"]
    for n, day in enumerate(days):
        for hour in (10, 9):
            put(log / f"date={day}" / f"hour={hour}" / f"part-0.{kind}", 100 * n + hour, kind)
    (log / "_SUCCESS").touch()
    (log / "date=2021-01-01" / ".crc").touch()
    (log / "date=2021-01-03").mkdir()
    columns = {**COLUMNS, "category": "date", "brand": "hour"}
    for path in (log, f"{log}/*/*/*.{kind}", f"{log}/**/*.{kind}"):
        result = run("sessions", path, columns=columns, max_bad_fraction=0)
        rows = [(row["session_id"], row["category"], row["brand"]) for row in result.rows]
        order = ["2021-01-01", "2021-01-02", "2021-01-10"]
        assert rows == [
            (100 * days.index(day) + hour, day, hour) for day in order for hour in (9, 10)
        ]


def test_a_time_may_be_a_folder_s(run, tmp_path):
    for day in ("2021-01-01", "2021-01-02"):
        put(tmp_path / "log" / f"at={day}" / "a.csv", 1, "csv")
    result = run("sessions", tmp_path / "log", columns={**COLUMNS, "timestamp": "at"})
    assert [str(row["timestamp"].date()) for row in result.rows] == ["2021-01-01", "2021-01-02"]


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(TEXT.filter(len), TEXT, min_size=1, max_size=2))
def test_any_key_and_value_comes_back(tmp_path_factory, keys):
    folder = tmp_path_factory.mktemp("any")
    path = folder.joinpath(*(f"{quote(k, '')}={quote(v, '')}" for k, v in keys.items()), "a.csv")
    if any(part.startswith((".", "_")) or "readme" in part.lower() for part in path.parts[-3:]):
        return
    path.parent.mkdir(parents=True)
    path.touch()
    [file] = list_inputs(folder)
    assert {key: file.keys[key] for key in keys} == keys


def test_no_value(run, tmp_path):
    for n, name in enumerate(["b=x%2Fy", "b=__HIVE_DEFAULT_PARTITION__", "b="]):
        put(tmp_path / "log" / name / "a.csv", n, "csv")
    result = run("sessions", tmp_path / "log", columns={**COLUMNS, "brand": "b"})
    assert {row["session_id"]: row["brand"] for row in result.rows} == {0: "x/y", 1: None, 2: None}


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_column_of_the_file_goes_before(run, tmp_path, kind):
    put(tmp_path / "log" / "brand=folder" / f"a.{kind}", 1, kind, brand="file")
    put(tmp_path / "log" / "brand=other" / f"a.{kind}", 2, kind)
    result = run("sessions", tmp_path / "log", columns={**COLUMNS, "brand": "brand"})
    assert [row["brand"] for row in result.rows] == ["file", "other"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["a/x.csv", "b/x.csv"], r"holds no log file.*it has folders \(a, b\).*\*\*/\*"),
        (["x.csv", "date=1/x.csv"], r"both log files \(x\.csv\) and folders of them \(date=1\)"),
        (["_delta_log/0.json", "x.csv"], "a Delta table"),
        (["date=1/_SUCCESS"], "holds no log file"),
    ],
)
def test_folders_that_cannot_be_read(run, tmp_path, files, message):
    for name in files:
        put(tmp_path / "log" / name, 1, "csv")
    with pytest.raises(UserError, match=message):
        run("sessions", tmp_path / "log", columns=COLUMNS)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "mixed"])
def test_an_optional_column_that_older_files_lack(run, tmp_path, capsys, kind):
    draw = random.Random(2)
    for n in range(12):
        one = draw.choice(["csv", "jsonl", "parquet"]) if kind == "mixed" else kind
        more = {"price": n + 0.5} if n > 6 else {}
        more |= {"brand": f"b{n}"} if n > 3 else {}
        put(tmp_path / "log" / f"{n}.{one}", n, one, **more)
    columns = {**COLUMNS, "price": "price", "brand": "brand"}
    result = run("sessions", tmp_path / "log", columns=columns, max_bad_fraction=0)
    assert [row["price"] for row in result.rows] == [None] * 7 + [n + 0.5 for n in range(7, 12)]
    assert [row["brand"] for row in result.rows] == [None] * 4 + [f"b{n}" for n in range(4, 12)]
    said = capsys.readouterr()
    if kind != "jsonl":
        assert (said.out + said.err).count("no column 'brand'") == 1


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_required_column_that_a_file_lacks(run, tmp_path, kind):
    put(tmp_path / "log" / f"1.{kind}", 1, kind)
    put(tmp_path / "log" / f"2.{kind}", 2, kind, u=5)
    tree = {"columns": {**COLUMNS, "session_id": None, "user_id": "u"}, "session_gap_minutes": 9}
    with pytest.raises(UserError, match=rf"1\.{kind}: no column 'u'"):
        run("sessions", tmp_path / "log", **tree)
    with pytest.raises(UserError, match=rf"1\.{kind}: no column 'nowhere'"):
        run("sessions", tmp_path / "log", columns={**COLUMNS, "brand": "nowhere"})


def test_parquet_files_of_differing_types(run, tmp_path):
    types = [pa.int64(), pa.string(), pa.int16(), pa.large_string(), pa.float64(), pa.uint8()]
    for n, kind in enumerate(types):
        item = pa.array([n], pa.int64()).cast(kind)
        rows = pa.table({"s": [n], "i": item, "t": [1569931200 + n], "brand": item})
        pq.write_table(rows, tmp_path / f"{n}.parquet")
    columns = {**COLUMNS, "brand": "brand"}
    files = [tmp_path / f"{n}.parquet" for n in range(len(types))]
    result = run("sessions", files, columns=columns, max_bad_fraction=0)
    assert [row["item_id"] for row in result.rows] == list(range(len(types)))
    tree = {"columns": columns, "types": {"item_id": "string", "brand": "string"}}
    texts = run("sessions", files, max_bad_fraction=0, **tree)
    assert [row["item_id"] for row in texts.rows] == [str(n) for n in range(len(types))]


def test_parquet_texts_that_are_not_utf8(run, tmp_path):
    texts = pa.array([b"a", b"\xff\xfe", b"c", b"\xc3"]).cast(pa.binary()).view(pa.string())
    rows = pa.table({"s": [1, 2, 3, 4], "i": texts, "t": [1569931200] * 4})
    pq.write_table(rows, tmp_path / "a.parquet")
    result = run("sessions", tmp_path / "a.parquet", columns=COLUMNS)
    assert [row["item_id"] for row in result.rows] == ["a", "c"]
    assert result.reasons == [(2, "i: not UTF-8"), (4, "i: not UTF-8")]
    assert '"s": 2' in result.bad[0]["text"]


@pytest.mark.parametrize("time_format", ["auto", "unix_s"])
def test_an_integer_that_no_float_holds(run, tmp_path, time_format):
    times = [1569931200, 2**60 + 1, 1569931202]
    rows = pa.table({"s": [1, 2, 3], "i": ["a", "b", "c"], "t": times})
    pq.write_table(rows, tmp_path / "a.parquet")
    result = run("sessions", tmp_path / "a.parquet", columns=COLUMNS, time_format=time_format)
    assert [line for line, _ in result.reasons] == [2]
