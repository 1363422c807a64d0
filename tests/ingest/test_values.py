"""Columns of every Arrow type, and texts of every form, against conversions in plain Python."""

import json
import math
import random
from datetime import date, timedelta
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import UserError
from core.settings import validate
from pipeline.ingest import convert as conversion
from pipeline.ingest.clickstream import ClickstreamSourceSettings
from pipeline.ingest.columns import Column, convert
from pipeline.stages.ingest import ingest

COLUMNS = {"session_id": "s", "item_id": "i", "timestamp": "t"}
UNIX = 1_600_000_000
ROWS = 120
MANTISSA = {pa.float16(): 2**24, pa.float32(): 2**24, pa.float64(): 2**53}


def wide(draw: random.Random) -> int:
    return draw.choice(
        [0, 1, -1, 5, draw.getrandbits(draw.randrange(1, 63)), -draw.getrandbits(62)]
    )


def integers(type: pa.DataType):
    low, high = np.iinfo(type.to_pandas_dtype()).min, np.iinfo(type.to_pandas_dtype()).max
    return lambda draw: draw.choice([low, high, 0, draw.randrange(low, high + 1)])


def floats(draw: random.Random) -> float:
    small = float(draw.randrange(2000))
    return draw.choice([math.nan, small, -0.0, small, draw.random(), 2.0**60, 2.0**53, math.inf])


def decimals(digits: int, scale: int):
    def draw_one(draw: random.Random) -> Decimal:
        value = draw.randrange(10**digits) if draw.random() < 0.5 else draw.randrange(50)
        return Decimal(value).scaleb(-scale) if draw.random() < 0.7 else Decimal(-(value % 10**4))

    return draw_one


TEXTS = {
    *(pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary()),
    *(pa.binary_view(), pa.binary(3), pa.null()),
}
WORDS = ["a", "é🎬", "5", "007", "nan", "a,b"]
DRAWN = {
    **{kind: integers(kind) for kind in (pa.int8(), pa.int16(), pa.int32(), pa.int64())},
    **{kind: integers(kind) for kind in (pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64())},
    **{kind: floats for kind in (pa.float32(), pa.float64())},
    pa.float16(): lambda draw: np.float16(draw.choice([math.nan, 5.0, 0.5, 4096.0])),
    pa.decimal128(20, 0): decimals(20, 0),
    pa.decimal128(12, 2): decimals(10, 2),
    pa.decimal256(40, 0): decimals(40, 0),
    pa.string(): lambda draw: draw.choice(WORDS),
    pa.large_string(): lambda draw: draw.choice(WORDS),
    pa.string_view(): lambda draw: draw.choice(WORDS),
    pa.binary(): lambda draw: draw.choice([*(word.encode() for word in WORDS), b"\xff\0"]),
    pa.large_binary(): lambda draw: draw.choice(WORDS).encode(),
    pa.binary_view(): lambda draw: draw.choice(WORDS).encode(),
    pa.binary(3): lambda draw: draw.choice([b"abc", b"123", b"007"]),
    pa.bool_(): lambda draw: draw.random() < 0.5,
    pa.null(): lambda draw: None,
    pa.date32(): lambda draw: date(2000, 1, 1) + timedelta(draw.randrange(9999)),
    pa.date64(): lambda draw: date(2000, 1, 1) + timedelta(draw.randrange(9999)),
}


def column_of(type: pa.DataType, seed: int, whole: bool) -> pa.Array:
    """Random values; ``whole``: of numbers only those that are integers of at most 11 bits."""
    draw = random.Random(f"{type} {seed}")
    values = [None if draw.random() < 0.1 else DRAWN[type](draw) for _ in range(ROWS)]
    if whole and not (pa.types.is_date(type) or type in TEXTS):
        values = [None if v is None else type_of(v)(abs(hash(v)) % 100) for v in values]
    return pa.array(values, type)


def type_of(value):
    return (lambda number: number % 2 == 0) if isinstance(value, bool) else value.__class__


def encoded(array: pa.Array, how: str) -> pa.Array:
    if how == "dictionary":
        plain = array.cast(pa.string()) if array.type == pa.string_view() else array
        return plain.dictionary_encode()
    if how == "runs":
        return pc.run_end_encode(array)
    return array


def missing(value) -> bool:
    return (
        value is None or value == "" or (isinstance(value, float | np.floating) and value != value)
    )


def whole(value, type: pa.DataType) -> int | None:
    """The integer that a value surely is, or None."""
    if isinstance(value, bool | date):
        return None
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str):
        canonical = value.lstrip("-").isascii() and value.lstrip("-").isdigit()
        return int(value) if canonical and str(int(value)) == value else None
    if isinstance(value, float | np.floating):
        good = math.isfinite(value) and value == int(value) and abs(value) <= MANTISSA[type]
        return int(value) if good else None
    return int(value) if value == int(value) else None


def text_of(value, type: pa.DataType) -> str | None:
    """The one text of a value; None where it has none."""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return None
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, date):
        return value.isoformat()
    number = whole(value, type)
    if number is not None:
        return str(number)
    if isinstance(value, float | np.floating):
        return None if value == int(value) or math.isinf(value) else "float"
    return format(value.normalize(), "f")


def in_int64(number: int | None) -> bool:
    return number is not None and -(2**63) <= number < 2**63


def safe_whole(value, type):
    return None if isinstance(value, float) and math.isinf(value) else whole(value, type)


def same_float(text: str, value, type: pa.DataType) -> bool:
    return type.to_pandas_dtype()(text) == type.to_pandas_dtype()(value)


def all_integers(known: list, type: pa.DataType) -> bool:
    """Whether a column is one of integers: floats too large to be exact do not speak against it."""
    if not known:
        return pa.types.is_integer(type)
    if type in MANTISSA:
        return all(math.isfinite(value) and value == int(value) for value in known)
    return all(in_int64(whole(value, type)) for value in known)


def values_read(run, folder, array: pa.Array, **tree):
    """The rows of a log with one categorical column ``c``; by row number, and the bad ones."""
    size = len(array)
    table = pa.table({"s": range(size), "i": range(size), "t": [UNIX] * size, "c": array})
    pq.write_table(table, folder / "a.parquet")
    result = run("sessions", folder / "a.parquet", columns=COLUMNS, **tree)
    return {row["item_id"]: row for row in result.rows}, dict(result.reasons), result


@pytest.mark.parametrize("whole_only", [True, False])
@pytest.mark.parametrize("how", ["plain", "dictionary", "runs"])
@pytest.mark.parametrize("type", DRAWN, ids=str)
def test_a_categorical_column_of_any_type(run, tmp_path, type, how, whole_only):
    array = column_of(type, 0, whole_only)
    values = array.to_pylist()
    try:
        coded = encoded(array, how)
    except (pa.ArrowNotImplementedError, pa.ArrowKeyError):
        pytest.skip(f"Arrow has no {how} {type}")
    integer = all_integers([value for value in values if not missing(value)], type)
    try:
        rows, bad, result = values_read(run, tmp_path, coded, extra_categorical=["c"])
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid, pa.ArrowKeyError):
        assert how == "runs" or "view" in str(type) or type == pa.null(), "Parquet holds it"
        chosen = pa.int64() if integer else pa.string()
        converted, wrong, _ = convert(Column("c", "c", "category", "c", type=chosen), coded, [""])
        rows, bad = dict(enumerate(converted.to_pylist())), set(np.flatnonzero(wrong).tolist())
    else:
        assert integer == (result.table.schema.field("c").type == pa.int64())
        rows = {row: value["c"] for row, value in rows.items()}
        bad = {line - 1 for line in bad}
    for row, value in enumerate(values):
        if missing(value):
            assert rows[row] is None
        elif integer:
            number = safe_whole(value, type)
            assert (row in bad) == (number is None) and rows.get(row) == number
        else:
            infinite = isinstance(value, float) and math.isinf(value)
            text = None if infinite else text_of(value, type)
            assert (row in bad) == (text is None)
            if text == "float":
                assert same_float(rows[row], value, type)
            else:
                assert rows.get(row) == text


@pytest.mark.parametrize("type", [kind for kind in DRAWN if kind not in (pa.date32(),)], ids=str)
def test_a_number_of_any_type(type):
    array = column_of(type, 1, whole=False)
    column = Column("n", "n", "number", "columns.n")
    if pa.types.is_date(type):
        with pytest.raises(Exception, match="expected one number a row"):
            convert(column, array, [""])
        return
    converted, bad, _ = convert(column, array, [""])
    for value, number, wrong in zip(array.to_pylist(), converted.to_pylist(), bad, strict=True):
        if missing(value):
            assert number is None and not wrong
            continue
        try:
            value = value.decode() if isinstance(value, bytes) else value
            with np.errstate(over="ignore"):
                known = np.float32(float(value))
        except ValueError:
            known = np.float32("inf")
        # A text "nan" is a number for Python, and a bad value here.
        finite = np.isfinite(known)
        assert wrong != finite and (not finite or number == known)


REFUSED = {
    "list<element: string>": pa.array([["a"], ["b"]]),
    "struct<x: int64>": pa.array([{"x": 1}, {"x": 2}]),
    "map<string, int64>": pa.array([[("a", 1)], []], pa.map_(pa.string(), pa.int64())),
    "duration[s]": pa.array([1, 2], pa.duration("s")),
    "fixed_size_list<element: int64>[1]": pa.array([[1], [2]], pa.list_(pa.int64(), 1)),
}


@pytest.mark.parametrize("place", ["s", "i", "t", "c", "p"])
@pytest.mark.parametrize("shown", REFUSED)
def test_a_type_without_a_conversion_is_named(run, tmp_path, shown, place):
    table = {"s": [1, 2], "i": [1, 2], "t": [UNIX] * 2, "c": [1, 2], "p": [1.0, 2.0]}
    table[place] = REFUSED[shown]
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    given = {**COLUMNS, "category": "c", "price": "p"}
    with pytest.raises(UserError) as failed:
        run("sessions", tmp_path / "a.parquet", columns=given)
    setting = {"s": "session_id", "i": "item_id", "t": "timestamp", "c": "category", "p": "price"}
    start = f"{tmp_path / 'a.parquet'}: column '{place}' (setting columns.{setting[place]}) is "
    assert str(failed.value).startswith(start + shown.split("<")[0].split("[")[0])


def test_nan_is_missing_in_every_kind_of_column(run, write, tmp_path):
    nan = math.nan
    columns = {
        "s": pa.array([1.0, 2.0, nan, 4.0, 5.0]),
        "i": pa.array([nan, 7.0, 8.0, 9.0, 10.0], pa.float32()),
        "t": pa.array([UNIX, UNIX, UNIX, nan, UNIX], pa.float64()),
        "c": pa.array([1.0, nan, 3.0, 4.0, 3.0]),
        "p": pa.array([1.0, nan, 3.0, 4.0, 0.5]),
        "v": pa.array([[1.0], [nan], [1.0], [1.0], [2.0]]),
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    names = list(columns)
    lines = [
        dict(zip(names, row, strict=True))
        for row in zip(*(c.to_pylist() for c in columns.values()), strict=True)
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    tree = {"columns": {**COLUMNS, "price": "p"}, "extra_categorical": ["c"], "vectors": ["v"]}
    for path in (tmp_path / "a.parquet", write("a.jsonl", text)):
        result = run("sessions", path, **tree)
        assert result.reasons == [(1, "i: missing"), (3, "s: missing"), (4, "t: missing")]
        assert [
            (r["session_id"], r["item_id"], r["c"], r["price"], r["v"]) for r in result.rows
        ] == [
            (2, 7, None, None, None),
            (5, 10, 3, 0.5, [2.0]),
        ]


FORMS = st.one_of(
    st.integers(-(2**70), 2**70).map(str),
    st.integers(-5, 200).map(str),
    st.integers(0, 200).map(lambda n: f"{n:03}"),
    st.sampled_from(["+5", "-0", "5.0", "1e3", "0x1F", "x", "٣", "1_0", "NA", "null", "\\N", "-"]),
)
NULL_LIKE = {"NA", "null", "\\N", "-"}


@settings(max_examples=150, deadline=None)
@given(st.lists(FORMS, min_size=1, max_size=40), st.sampled_from([64, 300, 10**6]))
def test_no_two_ids_become_one_and_none_is_lost(tmp_path_factory, texts, block):
    folder = tmp_path_factory.mktemp("ids")
    rows = "".join(f"{text},{row},{UNIX}\n" for row, text in enumerate(texts))
    (folder / "a.csv").write_text("s,i,t\n" + rows)
    tree = {"columns": COLUMNS, "workers": 1, "max_bad_fraction": 1.0, "block_bytes": block}
    try:
        record = ingest(
            "sessions",
            validate(ClickstreamSourceSettings, tree, "t"),
            folder / "a.csv",
            folder / "raw",
        )
    except UserError as error:
        assert "not one of" in str(error) and set(texts) <= NULL_LIKE
        return
    [row] = [pq.read_table(folder / "raw" / shard["file"]) for shard in record["shards"]]
    read = dict(
        zip(
            row["i"].to_pylist() if "i" in row.column_names else row["item_id"].to_pylist(),
            row["session_id"].to_pylist(),
            strict=True,
        )
    )
    canonical = [
        t
        for t in texts
        if t.lstrip("-").isascii()
        and t.lstrip("-").isdigit()
        and str(int(t)) == t
        and in_int64(int(t))
    ]
    integer = bool(canonical) and all(t in canonical or t in NULL_LIKE for t in texts)
    if block > 1000:
        assert (record["columns"]["session_id"] == "int64") == integer
    for at, text in enumerate(texts):
        if record["columns"]["session_id"] == "int64":
            assert text in canonical or text in NULL_LIKE
            assert read.get(at) == (int(text) if text in canonical else None)
        else:
            assert read[at] == text


def test_a_text_late_in_the_log_reads_it_again_as_text(run, write, capsys):
    rows = [f"{n},{n},{UNIX}" for n in range(500)]
    rows[400] = f"0117,a5,{UNIX}"
    path = write("a.csv", "s,i,t\n" + "\n".join(rows))
    result = run("sessions", path, columns=COLUMNS, block_bytes=500, rows_per_shard=50)
    assert [row["session_id"] for row in result.rows] == [row.split(",")[0] for row in rows]
    assert result.rows[400]["item_id"] == "a5" and not result.bad
    said = capsys.readouterr().out.replace("\n", " ")
    assert f"session_id is read as text, not as integers: {path}:402 holds '0117'" in said
    strict = run("sessions", path, columns=COLUMNS, types={"session_id": "integer"})
    assert strict.reasons[0][1].startswith("s: not a 64-bit integer (setting types.session_id")


def test_a_line_that_is_bad_anyway_does_not_turn_ids_into_texts(run, write):
    rows = [f"{n},{n},{UNIX}" for n in range(50)]
    rows[30] = "x,y,noon"
    result = run("sessions", write("a.csv", "s,i,t\n" + "\n".join(rows)), columns=COLUMNS)
    assert result.manifest["columns"]["session_id"] == "int64" and len(result.bad) == 1


def test_a_run_that_was_stopped_goes_on_as_text(run, write, monkeypatch, capsys):
    rows = [f"{n},{n},{UNIX}" for n in range(300)]
    rows[250] = f"a,a,{UNIX}"
    path = write("a.csv", "s,i,t\n" + "\n".join(rows))
    tree = {"columns": COLUMNS, "block_bytes": 200, "rows_per_shard": 20}
    whole_run = run("sessions", path, **tree).table
    taken = []
    take = conversion._Unit.take

    def stop(unit, parsed):
        taken.append(parsed.table.schema.field("session_id").type)
        if taken.count(pa.string()) == 20:
            raise KeyboardInterrupt
        take(unit, parsed)

    monkeypatch.setattr(conversion._Unit, "take", stop)
    (path.parent / "b.csv").write_bytes(path.read_bytes())
    with pytest.raises(KeyboardInterrupt):
        run("sessions", path, **tree)
    monkeypatch.setattr(conversion._Unit, "take", take)
    capsys.readouterr()
    assert run("sessions", path, **tree).table.equals(whole_run)
    assert "is read as text" not in capsys.readouterr().out


@pytest.mark.parametrize("text", ["NULL", "NA", "N/A", "\\N", "None", "nan", "NaN", "-", "null"])
@pytest.mark.parametrize("column", ["user_id", "price", "timestamp"])
def test_texts_for_a_missing_value_name_the_setting(run, write, text, column):
    header = {"user_id": "u", "price": "p", "timestamp": "t"}
    rows = [{"s": n, "i": n, "t": UNIX, "u": n, "p": 1.5} for n in range(20)]
    for row in rows[::5]:
        row[header[column]] = text
    lines = "\n".join(",".join(map(str, row.values())) for row in rows)
    path, given = write("a.csv", "s,i,t,u,p\n" + lines), {**COLUMNS, "user_id": "u", "price": "p"}
    with pytest.raises(UserError, match="setting null_values") as failed:
        run("sessions", path, columns=given, max_bad_fraction=0.01)
    assert "would keep it as text" not in str(failed.value)
    result = run("sessions", path, columns=given, null_values=["", text])
    assert len(result.rows) == (16 if column == "timestamp" else 20)


@pytest.mark.parametrize(
    "decimal, thousands, texts",
    [
        (",", "", ["1,5", "-0,25", "3", "1e3", ",5"]),
        (",", ".", ["1.234,5", "1.234.567", "999", "-1.000,0"]),
        (".", ",", ["1,234.5", "1,234,567", "999", "1.5"]),
        (".", " ", ["1 234.5", "12"]),
        (",", "'", ["1'234,5", "12"]),
    ],
)
def test_decimal_and_thousands(run, write, decimal, thousands, texts):
    def value(text):
        return np.float32(text.replace(thousands or "\0", "").replace(decimal, "."))

    odd = {",": ["1.5", "1,2,3"], ".": ["1,5", "1.2.3"]}[decimal] if thousands != "," else ["1,5"]
    odd = [text for text in odd if not (thousands == "." and text == "1.5")] + ["12,34.5,"]
    rows = "\n".join(f"{n};{n};{UNIX};{text}" for n, text in enumerate([*texts, *odd]))
    tree = {"columns": {**COLUMNS, "price": "p"}, "separator": ";", "decimal": decimal}
    result = run("sessions", write("a.csv", "s;i;t;p\n" + rows), thousands=thousands, **tree)
    assert [row["price"] for row in result.rows] == [value(text) for text in texts]
    assert len(result.bad) == len(odd)


def test_what_is_not_kept_is_filtered_whatever_else_it_holds(run, write):
    draw = random.Random(0)
    kinds = ["view", "search", "", "7", "cart"]
    junk = ["", "hotel", "1.5", "noon", str(UNIX)]
    rows, good = ["s,i,t,e"], []
    for n in range(400):
        kind = draw.choice(kinds)
        if kind == "view":
            good.append(n)
            rows.append(f"{n},{n},{UNIX},view")
        else:
            rows.append(f"{draw.choice(junk)},{draw.choice(junk)},{draw.choice(junk)},{kind}")
    path, given = write("a.csv", "\n".join(rows)), {**COLUMNS, "event_type": "e"}
    for block in (10**6, 200):
        result = run("sessions", path, columns=given, keep_event_types=["view"], block_bytes=block)
        assert [row["item_id"] for row in result.rows] == good
        assert result.manifest["rows_filtered"] == 400 - len(good) and not result.bad
        assert result.manifest["columns"]["item_id"] == "int64"
    with pytest.raises(UserError, match="no event of the log is of a type that keep_event_types"):
        run("sessions", path, columns=given, keep_event_types=["buy"])


def test_integers_are_kept_among_texts(run, write):
    rows = [f"{n},{n},{UNIX},{kind}" for n, kind in enumerate([1, 2, "view", 1, "", 3])]
    path, given = write("a.csv", "s,i,t,e\n" + "\n".join(rows)), {**COLUMNS, "event_type": "e"}
    result = run("sessions", path, columns=given, keep_event_types=[1, 2])
    assert [row["event_type"] for row in result.rows] == [1, 2, 1]
    assert result.manifest["rows_filtered"] == 3
