"""Nested JSON, keys that come late, values whose type changes, sessions as lines."""

import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import UserError
from pipeline.ingest import jsonlines
from pipeline.ingest.blocks import Block

COLUMNS = {"session_id": "s", "item_id": "i", "timestamp": "t"}
OTTO = {"session_id": "session", "item_id": "events.aid", "timestamp": "events.ts"}


def lines(records) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def event(n: int, **more) -> dict:
    return {"s": n // 3, "i": n % 7, "t": 1569931200 + n, **more}


def text(value) -> str | None:
    """What one value is as a text."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return json.dumps(value)


VALUES = st.one_of(
    st.none(),
    st.integers(-(2**70), 2**70),
    st.integers(0, 9),
    st.floats(allow_nan=False, allow_infinity=False, min_value=-1e6, max_value=1e6).map(
        lambda number: round(number, 2) + 0.0
    ),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=3),
    st.booleans(),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.sampled_from("ab"), st.integers(0, 9), max_size=2),
)
RECORD = st.dictionaries(st.sampled_from(["x", "y", "x.a", "x.b.c", "z"]), VALUES, max_size=5)


def walk(record: dict, path: str):
    """The value at a path, by the rules of the docs."""
    if record.get(path) is not None or "." not in path:
        return record.get(path)
    value = record
    for part in path.split("."):
        if isinstance(value, list):
            value = [one.get(part) if isinstance(one, dict) else None for one in value]
        else:
            value = value.get(part) if isinstance(value, dict) else None
    return value


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(RECORD, st.integers(1, 40)), min_size=1, max_size=6),
    st.lists(st.sampled_from(["x", "y", "x.a", "x.b.c"]), min_size=1, unique=True),
)
def test_any_values_of_any_types(runs, paths):
    records = [record for record, times in runs for _ in range(times)]
    data = lines(records).encode()
    rows = jsonlines.read_rows(Block(data, 1, len(records), 0), jsonlines.Keys(paths))
    assert not rows.bad
    for path in paths:
        values = [text(value) for value in rows.arrays[path].to_pylist()]
        expected = [text(walk(record, path)) for record in records]
        # As floats, numbers with fractions are written in one way of several.
        assert [plain(value) for value in values] == [plain(value) for value in expected]


def plain(value: str | None):
    try:
        return value if value is None or "." not in value else float(value)
    except ValueError:
        return value


@pytest.mark.parametrize("block", [2000, 1 << 20])
def test_a_key_first_seen_late(run, write, block):
    records = [event(n) for n in range(3000)]
    for n in range(2500, 3000):
        records[n] |= {"brand": f"b{n % 3}", "price": n / 4}
    columns = {**COLUMNS, "brand": "brand", "price": "price"}
    result = run(
        "sessions",
        write("a.jsonl", lines(records)),
        columns=columns,
        block_bytes=block,
        max_bad_fraction=0,
    )
    assert [row["brand"] for row in result.rows] == [record.get("brand") for record in records]
    assert [row["price"] for row in result.rows] == [record.get("price") for record in records]


def test_a_key_in_another_file_only(run, write):
    write("a.jsonl", lines(event(n) for n in range(10)))
    folder = write("b.jsonl.gz", lines(event(n, brand="b") for n in range(10))).parent
    result = run("sessions", folder, columns={**COLUMNS, "brand": "brand"})
    assert [row["brand"] for row in result.rows] == [None] * 10 + ["b"] * 10


def test_a_key_that_no_line_has(run, write):
    path = write("a.jsonl", lines(event(n, note="'brand' \"brand\"") for n in range(2000)))
    with pytest.raises(UserError, match=r"no column 'brand' .*columns\.brand.*: s, i, t, note"):
        run("sessions", path, columns={**COLUMNS, "brand": "brand"})


def test_a_value_whose_type_changes_later(run, write):
    records = [event(n) for n in range(4000)]
    for n in range(2000, 4000, 7):
        records[n]["i"] = f"x{n}"
    tree = {"columns": COLUMNS, "types": {"item_id": "string"}, "max_bad_fraction": 0}
    result = run("sessions", write("a.jsonl", lines(records)), **tree)
    assert [row["item_id"] for row in result.rows] == [str(record["i"]) for record in records]


def test_large_integers_after_fractions_stay_exact(run, write):
    values = [0.5, 2.5] * 40 + [2**60 + 1]
    records = [event(n, v=value) for n, value in enumerate(values)]
    tree = {"extra_categorical": ["v"], "types": {"v": "string"}, "columns": COLUMNS}
    result = run("sessions", write("a.jsonl", lines(records)), **tree)
    assert result.rows[-1]["v"] == str(2**60 + 1)


def test_paths_into_objects(run, write):
    draw = random.Random(0)
    records = []
    for n in range(500):
        item = {"id": f"x{n}", "tags": [1], "deep": {"p": n / 2}} if draw.random() < 0.9 else None
        records.append({"who": {"s": n // 3}, "event": {"item": item, "at": 1569931200 + n}})
    records[7]["event.item.id"] = "its own key"
    records[9]["event"] = "no object"
    tree = {
        "columns": {
            "session_id": "who.s",
            "item_id": "event.item.id",
            "timestamp": "event.at",
            "price": "event.item.deep.p",
        }
    }
    result = run("sessions", write("a.jsonl", lines(records)), **tree)
    good = [
        n
        for n, record in enumerate(records)
        if n == 7 or (isinstance(record["event"], dict) and record["event"]["item"])
    ]
    expected = ["its own key" if n == 7 else f"x{n}" for n in good]
    assert [row["item_id"] for row in result.rows] == expected
    assert [row["price"] for row in result.rows if row["item_id"] != "its own key"] == [
        n / 2 for n in good if n != 7
    ]
    assert result.manifest["rows_quarantined"] == 500 - len(good)


def test_paths_into_structs_of_parquet(run, tmp_path):
    table = pa.table(
        {
            "who": [{"s": 1}, {"s": 2}, None],
            "event": [{"item": {"id": "a"}, "at": 1569931200}] * 3,
            "b.c": ["own", None, "own"],
        }
    )
    path = tmp_path / "a.parquet"
    pq.write_table(table, path)
    columns = {"session_id": "who.s", "item_id": "event.item.id", "timestamp": "event.at"}
    result = run("sessions", path, columns={**columns, "brand": "b.c"})
    assert [(row["session_id"], row["item_id"], row["brand"]) for row in result.rows] == [
        (1, "a", "own"),
        (2, "a", None),
    ]
    with pytest.raises(UserError, match=r"no column 'event\.item\.x'"):
        run("sessions", path, columns={**columns, "item_id": "event.item.x"})


@pytest.mark.parametrize("block", [300, 1 << 20])
@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_a_session_a_line(run, write, tmp_path, block, form):
    draw = random.Random(1)
    sessions = [
        {
            "session": n,
            "events": [
                {"aid": draw.randrange(99), "ts": 1569931200000 + n * 100 + k, "type": "clicks"}
                for k in range(draw.randrange(5))
            ],
        }
        for n in range(200)
    ]
    if form == "parquet":
        path = tmp_path / "a.parquet"
        pq.write_table(pa.Table.from_pylist(sessions), path)
    else:
        path = write("a.jsonl", lines(sessions))
    columns = {**OTTO, "event_type": "events.type"}
    result = run(
        "sessions", path, columns=columns, layout="sessions", block_bytes=block, max_bad_fraction=0
    )
    assert [(row["session_id"], row["item_id"], row["event_type"]) for row in result.rows] == [
        (session["session"], one["aid"], one["type"])
        for session in sessions
        for one in session["events"]
    ]


def test_sessions_as_lists_of_values(run, write):
    records = [
        {"s": 1, "i": [1, "x", None], "t": [1, 2, 3], "u": "a"},
        {"s": 2, "i": [4], "t": [5, 6], "u": "b"},
        {"s": 3, "i": None, "t": None, "u": "b"},
        {"s": 4, "i": 5, "t": 6, "u": "b"},
        {"s": 5, "i": [], "t": []},
        {"s": 6, "i": [7], "t": [1569931200]},
    ]
    tree = {"columns": {**COLUMNS, "user_id": "u"}, "layout": "sessions", "time_format": "unix_s"}
    result = run("sessions", write("a.jsonl", lines(records)), **tree)
    assert [(row["session_id"], row["item_id"]) for row in result.rows] == [
        (1, "1"),
        (1, "x"),
        (6, "7"),
    ]
    assert result.reasons == [
        (1, "i: missing"),
        (2, "t: 2 values, i: 1"),
        (3, "i: missing"),
        (4, "i: not a list (setting layout)"),
    ]


def test_no_session_is_a_list(run, write):
    path = write("a.jsonl", lines(event(n) for n in range(20)))
    with pytest.raises(UserError, match=r"i: not a list \(setting layout\)"):
        run("sessions", path, columns=COLUMNS, layout="sessions")


def test_one_value_is_one_text_in_lists_too(run, write):
    large = 10**11
    records = [
        {"s": 1, "i": [large, 0.5], "t": [1569931200, 1569931201]},
        *({"s": n, "i": ["x"], "t": [1569931200]} for n in range(2, 60)),
        {"s": 60, "i": [large], "t": [1569931200]},
    ]
    result = run("sessions", write("a.jsonl", lines(records)), columns=COLUMNS, layout="sessions")
    assert [result.rows[n]["item_id"] for n in (0, 1, 2, -1)] == [
        str(large),
        "0.5",
        "x",
        str(large),
    ]


@pytest.mark.parametrize("depth", [5, 300, 700, 900, 980, 5000])
@pytest.mark.parametrize("layout", ["events", "sessions"])
def test_lists_within_lists_are_a_bad_line_at_the_most(run, write, depth, layout):
    deep = f'{{"s": 1, "i": [7], "t": [1569931200], "x": {"[" * depth}1{"]" * depth}}}\n'
    if layout == "events":
        deep = deep.replace("[7]", "7").replace("[1569931200]", "1569931200")
    good = deep.replace(f"{'[' * depth}1{']' * depth}", '{"a": {"b": "z"}}')
    columns = {**COLUMNS, "brand": "x.a.b"}
    path = write("a.jsonl", good * 3 + deep + good)
    result = run(
        "sessions", path, columns=columns, layout=layout, time_format="unix_s", max_bad_fraction=0.5
    )
    assert len(result.rows) + len(result.reasons) == 5 and len(result.reasons) < 2
