import csv
import gzip
import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.errors import UserError
from core.settings import validate
from pipeline.ingest import gaps
from pipeline.ingest.clickstream import ClickstreamSourceSettings
from pipeline.ingest.ratings import RatingsSourceSettings
from pipeline.stages.ingest import ingest
from tests.harness.altered import records_of

COLUMNS = {"session_id": "SessionId", "item_id": "ItemId", "timestamp": "Time"}
START = datetime(2019, 10, 1, 12, 0, 0, tzinfo=UTC)
UNIX = int(START.timestamp())


def ids(result) -> list[tuple]:
    return [(row["session_id"], row["item_id"]) for row in result.rows]


def lines(rows: list[list], separator: str = ",", header: bool = True) -> str:
    out = io.StringIO()
    writer = csv.writer(out, delimiter=separator, lineterminator="\n")
    if header:
        writer.writerow(COLUMNS.values())
    writer.writerows(rows)
    return out.getvalue()


ROWS = [[-5, 10, UNIX], [7, 11, UNIX + 1], [-5, 12, UNIX + 2]]


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.tsv", "a.txt", "a.tsv.gz", "noextension"])
@pytest.mark.parametrize("separator", [",", "\t", ";", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_text_with_any_separator(run, write, name, separator, end):
    text = "\ufeff" + lines(ROWS, separator).replace("\n", end)
    result = run("sessions", write(name, text), columns=COLUMNS, max_bad_fraction=0)
    assert ids(result) == [(-5, 10), (7, 11), (-5, 12)]
    assert result.rows[2]["timestamp"] == START + timedelta(seconds=2)
    assert result.table.schema == pa.schema(
        [
            ("session_id", pa.int64()),
            ("item_id", pa.int64()),
            ("timestamp", pa.timestamp("ms", "UTC")),
        ]
    )


@pytest.mark.parametrize("separator", ["auto", "::"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_ratings_between_two_colons(run, write, separator, end):
    good = ["1::a:b::4.5::964982703", "1::c:::5::964982704", "3::\x1f🎬::1::964982708", ""]
    bad = ['2::"d::3::964982705\u2028', "2::e::3", "2::f::3::964982706::", "2::::3::964982707"]
    text = end.join([*good[:2], *bad, *good[2:]])
    result = run(
        "sessions",
        write("ratings.dat", text),
        columns={"session_id": "u", "item_id": "i", "timestamp": "t"},
        column_names=["u", "i", "r", "t"],
        separator=separator,
    )
    assert ids(result) == [(1, "a:b"), (1, "c"), (3, "\x1f🎬")]
    assert result.reasons == [
        (3, "t: not a unix_s time (setting time_format): '964982705\\u2028'"),
        (4, "expected 4 fields separated by two colons, found 3"),
        (5, "expected 4 fields separated by two colons, found 5"),
        (6, "i: missing"),
    ]


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson.gz", "noextension"])
def test_json_lines(run, write, name):
    rows = [dict(zip(COLUMNS.values(), row, strict=True)) | {"other": {"a": [1]}} for row in ROWS]
    text = "\n".join(json.dumps(row) for row in rows)
    result = run("sessions", write(name, text), columns=COLUMNS, max_bad_fraction=0)
    assert ids(result) == [(-5, 10), (7, 11), (-5, 12)]
    assert result.rows[0]["timestamp"] == START


def test_parquet(run, tmp_path):
    path = tmp_path / "a.parquet"
    times = pa.array([START] * 3, pa.timestamp("ns"))
    table = pa.table({"SessionId": ["a", None, "c"], "ItemId": [1, 2, 3], "Time": times})
    pq.write_table(table, path)
    result = run("sessions", path, columns=COLUMNS)
    assert ids(result) == [("a", 1), ("c", 3)]
    assert result.rows[0]["timestamp"] == START
    assert result.reasons == [(2, "SessionId: missing")]


def test_files_without_a_header_and_in_a_list(run, write):
    one = write("b.dat", lines(ROWS[:2], header=False))
    two = write("a.dat", lines(ROWS[2:], header=False))
    names = list(COLUMNS.values())
    result = run("sessions", [one, two], columns=COLUMNS, column_names=names)
    assert ids(result) == [(-5, 10), (7, 11), (-5, 12)]


def test_strings_with_commas_quotes_and_emoji(run, write):
    names = ["a,b", 'say "hi"', "🛒 cart", "", "007"]
    rows = [[name, f"item{n}", UNIX + n] for n, name in enumerate(names)]
    result = run("sessions", write("a.csv", lines(rows)), columns=COLUMNS)
    assert [row["session_id"] for row in result.rows] == [name for name in names if name]
    assert result.reasons == [(5, "SessionId: missing")]


@pytest.mark.parametrize(
    "texts, time_format",
    [
        (["1569931200", "1569931200.5"], "unix_s"),
        (["1569931200000", "1569931200500"], "unix_ms"),
        (["2019-10-01T12:00:00Z", "2019-10-01T12:00:00.500Z"], "iso"),
        (["2019-10-01 14:00:00+02:00", "2019-10-01T06:00:00.5-0600"], "iso"),
        (["2019-10-01 12:00:00 UTC", "2019-10-01 12:00:00.500000"], "iso"),
    ],
)
@pytest.mark.parametrize("chosen", [True, False])
def test_every_form_of_time_gives_the_same(run, write, texts, time_format, chosen):
    text = lines([[1, 2, time] for time in texts])
    extra = {"time_format": time_format} if chosen else {}
    result = run("sessions", write("a.csv", text), columns=COLUMNS, **extra)
    times = [row["timestamp"] for row in result.rows]
    assert times == [START, START + timedelta(milliseconds=500)]
    assert result.manifest["time_format"] == time_format


@pytest.mark.parametrize(
    "line, reason",
    [
        (b"1,2", "expected 3 fields separated by a comma, found 2"),
        (b"1,2,3,4", "expected 3 fields separated by a comma, found 4"),
        (b"", "blank line"),
        (b",2,1569931200", "SessionId: missing"),
        (b"1,,1569931200", "ItemId: missing"),
        (b"1,2,", "Time: missing"),
        (b"1,apple,1569931200", "ItemId: not a 64-bit integer"),
        (b"1,99999999999999999999,1569931200", "ItemId: not a 64-bit integer"),
        (b"1,0x10,1569931200", "ItemId: not a 64-bit integer"),
        (b"1,2,noon", "Time: not a unix_s time"),
        (b"1,2,1569931200000", "Time: time before 1991-01-01 or from 2100-01-01 on"),
        (b"1,2,-5", "Time: time before 1991-01-01 or from 2100-01-01 on"),
        (b"1,2,nan", "Time: "),
        (b"1,2\0,1569931200", "the line holds a NUL byte"),
        (b"1,\xff,1569931200", "the line is not UTF-8"),
        (b"1,2\r,1569931200", "a carriage return within the line"),
        (b"1," + b"2" * 9000 + b",1569931200", "line longer than 8,000 bytes"),
    ],
)
def test_a_bad_line_is_set_aside_with_its_reason(run, write, line, reason):
    good = [[n, n, UNIX] for n in range(40)]
    text = lines(good).encode() + line + b"\n" + lines(good[:1], header=False).encode()
    path = write("a.csv", text)
    types = {"session_id": "integer", "item_id": "integer"}
    result = run("sessions", path, columns=COLUMNS, types=types, max_line_bytes=8000)
    assert ids(result) == [(n, n) for n in [*range(40), 0]]
    [bad] = result.bad
    assert (bad["file"], bad["line"]) == (str(path), 42)
    assert bad["reason"].startswith(reason)
    assert bad["text"] == line.decode("utf-8", "backslashreplace")[:4096]


def test_bad_json_lines(run, write):
    good = [{"s": "a", "i": n, "t": UNIX} for n in range(100)]
    text = [json.dumps(row).encode() for row in good]
    text[10] = b'{"s": "a", "i": 1'
    text[20] = b"[1, 2]"
    text[30] = b""
    text[40] = b'{"s": "a\xff", "i": 1, "t": 1569931200}'
    text[50] = b'{"s": "a", "t": 1569931200}'
    text[60] = b'{"s": "a", "i": "sixty", "t": 1569931200}'
    text[70] = b'{"s": 5, "i": "70", "t": "1569931200"}'
    text[80] = b'{"s": "a", "i": 1e400, "t": 1569931200}'
    text[90] = b"[" * 100_000
    path = write("a.jsonl", b"\n".join(text))
    columns = {"session_id": "s", "item_id": "i", "timestamp": "t"}
    types = {"item_id": "integer"}
    result = run("sessions", path, columns=columns, types=types, block_bytes=2000)
    assert [line for line, _ in result.reasons] == [11, 21, 31, 41, 51, 61, 81, 91]
    assert [row["item_id"] for row in result.rows] == [
        n for n in range(100) if n not in (10, 20, 30, 40, 50, 60, 80, 90)
    ]
    assert result.rows[64] == {"session_id": "5", "item_id": 70, "timestamp": START}


def test_id_types(run, write):
    path = write("a.csv", lines([["1", "99999999999999999999", UNIX], ["2", "5", UNIX]]))
    result = run("sessions", path, columns=COLUMNS, types={"item_id": "integer"})
    assert ids(result) == [(2, 5)] and len(result.bad) == 1
    as_text = [(1, "99999999999999999999"), (2, "5")]
    assert ids(run("sessions", path, columns=COLUMNS, types={"item_id": "string"})) == as_text
    assert ids(run("sessions", path, columns=COLUMNS)) == as_text
    assert ids(run("sessions", path, columns=COLUMNS, id_type="string"))[1] == ("2", "5")


def test_optional_and_extra_columns_and_vectors(run, write):
    header = "user,s,t,i,type,cat,brand,price,colour,weight,image,unused\n"
    text = header + (
        'u1,1,1569931200,5,view,shoes,acme,1.5,red,0.5,"[1, 2.5]",x\n'
        "u2,2,1569931201,6,cart,,,,,,1 2,\n"
        "u3,3,1569931202,7,view,,,,,,1 2 3,\n"
        "u4,4,1569931203,8,view,,,cheap,,,,\n"
        "u5,5,1569931204,9,view,,,inf,,,,\n"
    )
    result = run(
        "sessions",
        write("a.csv", text),
        columns={
            "session_id": "s",
            "item_id": "i",
            "timestamp": "t",
            "user_id": "user",
            "event_type": "type",
            "category": "cat",
            "brand": "brand",
            "price": "price",
        },
        extra_categorical=["colour"],
        extra_continuous=["weight"],
        vectors=["image"],
    )
    first, second = result.rows
    assert first == {
        "session_id": 1,
        "item_id": 5,
        "timestamp": START,
        "user_id": "u1",
        "event_type": "view",
        "category": "shoes",
        "brand": "acme",
        "price": 1.5,
        "colour": "red",
        "weight": 0.5,
        "image": [1.0, 2.5],
    }
    assert second["brand"] is None and second["price"] is None and second["image"] == [1.0, 2.0]
    assert [line for line, _ in result.reasons] == [4, 5, 6]


@pytest.mark.parametrize("name, separator", [("a.csv", ";"), ("a.jsonl", None)])
def test_what_was_told_from_a_log_can_be_given_back(run, write, name, separator):
    names = ["s", "i", "t", "b", "v"]
    row = ["x1", 5, UNIX * 1000, "red", [1, 2.5]]
    text = ";".join(names) + "\n" + ";".join(str(value) for value in row)
    if separator is None:
        text = json.dumps(dict(zip(names, row, strict=True)))
    tree = {
        "columns": {"session_id": "s", "item_id": "i", "timestamp": "t"},
        "extra_categorical": ["b"],
        "vectors": ["v"],
    }
    result = run("sessions", write(name, text), **tree)
    types = {"session_id": "string", "item_id": "integer", "b": "string"}
    resolved = {
        "types": types,
        "widths": {"v": 2},
        "time_format": "unix_ms",
        "first_time": "1991-01-01",
    }
    assert result.manifest["resolved"] == resolved | ({"separator": separator} if separator else {})
    other = write("other.csv", text.replace("x1", "7").replace("red", "7").replace("1, 2.5", "1"))
    if separator:
        with pytest.raises(UserError, match="v: not a vector of 2 finite numbers"):
            run("sessions", other, **tree, **result.manifest["resolved"])
        other = write("other.csv", text.replace("x1", "7").replace("red", "7"))
        again = run("sessions", other, **tree, **result.manifest["resolved"])
        assert again.manifest["resolved"] == result.manifest["resolved"]
        assert again.rows[0]["b"] == "7"


def test_event_types_are_filtered_and_duplicates_dropped(run, write):
    header = "s,i,t,type\n"
    rows = ["1,5,1569931200,view", "1,5,1569931200,buy", "1,6,1569931201,view"] * 2
    path = write("a.csv", header + "\n".join(rows))
    columns = {"session_id": "s", "item_id": "i", "timestamp": "t", "event_type": "type"}
    result = run("sessions", path, columns=columns, keep_event_types=["view"], rows_per_shard=3)
    assert result.manifest["rows_filtered"] == 2 and len(result.rows) == 4
    result = run("sessions", path, columns=columns, drop_duplicates=True, rows_per_shard=4)
    assert result.manifest["rows_duplicate"] == 3
    assert [row["event_type"] for row in result.rows] == ["view", "buy", "view"]


def test_many_bad_values_are_found_quickly_and_exactly(run, write):
    values = ["x", "1" * 20, "12", "-3", "", "1e3", "4" * 19][:] * 3000
    text = lines([[1, value, UNIX] for value in values])
    result = run("sessions", write("a.csv", text), columns=COLUMNS, types={"item_id": "integer"})
    good = [int(value) for value in values if value in ("12", "-3", "4" * 19)]
    assert [row["item_id"] for row in result.rows] == good
    assert [line for line, _ in result.reasons] == [
        n + 2 for n, value in enumerate(values) if value not in ("12", "-3", "4" * 19)
    ]


def by_hand(events: list[tuple[int, int]], gap: int) -> list[int]:
    """Sessions of (user, second) events: the position of each session's first event."""
    sessions = [0] * len(events)
    order = sorted(range(len(events)), key=lambda n: (events[n], n))
    for before, n in zip([None, *order], order, strict=False):
        same = before is not None and events[before][0] == events[n][0]
        near = same and events[n][1] - events[before][1] <= gap
        sessions[n] = sessions[before] if near else n
    return sessions


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4000)), min_size=1, max_size=60))
def test_sessions_by_user_and_gap(tmp_path_factory, monkeypatch, events):
    monkeypatch.setattr(gaps, "BUCKET_ROWS", 7)
    folder = tmp_path_factory.mktemp("gap")
    rows = "".join(f"{user},{n},{UNIX + second}\n" for n, (user, second) in enumerate(events))
    (folder / "a.csv").write_text("u,i,t\n" + rows)
    chosen = validate(
        ClickstreamSourceSettings,
        {
            "columns": {"session_id": None, "user_id": "u", "item_id": "i", "timestamp": "t"},
            "session_gap_minutes": 10,
            "rows_per_shard": 11,
            "workers": 1,
        },
        "test",
    )
    record = ingest("sessions", chosen, folder / "a.csv", folder / "raw")
    tables = [pq.read_table(folder / "raw" / shard["file"]) for shard in record["shards"]]
    table = pa.concat_tables(tables)
    assert table["item_id"].to_pylist() == list(range(len(events)))
    assert table["session_id"].to_pylist() == by_hand(events, 600)


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("a.csv", "", "empty"),
        ("a.csv", "SessionId,ItemId,Time\n", "nothing but a header row"),
        ("a.csv", "SessionId,Item,Time\n1,2,3\n", "no column 'ItemId' (setting columns.item_id)"),
        ("a.csv", "SessionId:ItemId:Time\n1:2:3\n", "no column 'SessionId'"),
        ("a.csv", "SessionId,ItemId,ItemId,Time\n1,2,3,4\n", "more than one column 'ItemId'"),
        ("a.csv", b"SessionId,\xff,Time\n1,2,3\n", "the header row is not UTF-8"),
        ("a.jsonl", '{"SessionId": 1, "Time": 2}\n', "no column 'ItemId'"),
        ("a.jsonl", "not json at all\n", "not valid JSON"),
        ("a.parquet", "not parquet", "this is not Parquet data"),
    ],
)
def test_one_clear_message(run, write, tmp_path, name, text, message):
    path = write(name, text)
    with pytest.raises(UserError) as error:
        run("sessions", path, columns=COLUMNS)
    assert message in str(error.value) and str(path) in str(error.value)
    assert not (tmp_path / "raw").exists()


@pytest.mark.parametrize(
    "tree, message",
    [
        ({"columns": {"session_id": None}}, "give columns.user_id and session_gap_minutes$"),
        ({"columns": {"session_id": None, "user_id": "u"}}, "give session_gap_minutes$"),
        ({"session_gap_minutes": 5}, "needs columns.session_id: null"),
        ({"keep_event_types": ["view"]}, "needs columns.event_type"),
        ({"extra_categorical": ["item_id"]}, "two columns would be called item_id"),
        ({"types": {"itemid": "string"}}, "types.itemid: no such column"),
        ({"separator": "ab"}, "one ASCII character"),
        ({"path": ""}, "path is empty"),
    ],
)
def test_settings_that_do_not_agree(tree, message):
    with pytest.raises(UserError, match=message.replace(".", r"\.")):
        validate(ClickstreamSourceSettings, tree, "test")


TEXT = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=8
)
EVENT = st.tuples(
    TEXT, st.integers(-(2**63), 2**63 - 1), st.integers(0, 4_102_444_799_999), st.none() | TEXT
)


@settings(max_examples=40, deadline=None)
@given(st.lists(EVENT, min_size=1, max_size=20), st.sampled_from(["csv", "tsv", "jsonl"]))
def test_any_rows_come_back(tmp_path_factory, events, extension):
    folder = tmp_path_factory.mktemp("any")
    path = folder / f"a.{extension}"
    names = ["session_id", "item_id", "timestamp", "brand"]
    if extension == "jsonl":
        path.write_text(
            "".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in events)
        )
    else:
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(
                file,
                delimiter="," if extension == "csv" else "\t",
                lineterminator="\n",
                quoting=csv.QUOTE_NONNUMERIC,  # blanks around a text are its own
            )
            writer.writerows([names, *events])
    tree = {
        "columns": {"brand": "brand"},
        "types": {"session_id": "string", "item_id": "integer", "brand": "string"},
        "time_format": "unix_ms",
        "first_time": "1970-01-01",
        "max_bad_fraction": 0,
        "block_bytes": 200,
        "workers": 1,
    }
    chosen = validate(ClickstreamSourceSettings, tree, "test")
    ingest("sessions", chosen, path, folder / "raw")
    table = pq.read_table(folder / "raw" / "part-00000.parquet")
    table = table.set_column(2, "timestamp", table["timestamp"].cast(pa.int64()))
    assert [tuple(row.values()) for row in table.to_pylist()] == events


def test_every_byte_altered(tmp_path):
    """Whatever one byte becomes, every record is accounted for or the header is refused."""
    text = lines([["a", '"x, y"', UNIX], ["é", 12, UNIX + 1], ["b", 13, UNIX + 2]]).encode()
    path = tmp_path / "a.csv"
    tree = {"columns": COLUMNS, "max_bad_fraction": 1.0, "workers": 1, "separator": ","}
    chosen = validate(ClickstreamSourceSettings, tree, "test")
    for index in range(len(text)):
        for byte in (0, 10, 34, 0xFF):
            path.write_bytes(text[:index] + bytes([byte]) + text[index + 1 :])
            try:
                record = ingest("sessions", chosen, path, tmp_path / "raw")
            except UserError as error:
                # A quote that is not closed spoils all lines after it.
                assert index <= text.index(b"\n") or "not one of" in str(error), error
                continue
            assert record["rows_read"] == record["rows_written"] + record["rows_quarantined"]
            assert record["rows_read"] == records_of(path.read_bytes())


def test_ratings(tmp_path):
    path = tmp_path / "a.inter"
    path.write_text("user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t2\t3.5\t9e8\n")
    ingest("interactions", RatingsSourceSettings(workers=1), path, tmp_path / "raw")
    [row] = pq.read_table(tmp_path / "raw" / "part-00000.parquet").to_pylist()
    time = datetime.fromtimestamp(900_000_000, UTC)
    assert row == {"user_id": 1, "item_id": 2, "rating": 3.5, "timestamp": time}


def test_against_polars_on_real_logs(run, real_data: Path):
    rees46 = real_data / "rees46" / "events_2019-10-01.csv.gz"
    plain = pl.read_csv(gzip.decompress(rees46.read_bytes()))
    result = run(
        "sessions",
        rees46,
        columns={"price": "price_log_norm"},
        block_bytes=10**6,
        max_bad_fraction=0,
    )
    table = pl.from_arrow(result.table)
    assert table["session_id"].equals(plain["session_id"])
    assert table["item_id"].equals(plain["item_id"])
    assert table["timestamp"].dt.epoch("s").equals(plain["timestamp"])
    assert table["price"].equals(plain["price_log_norm"].cast(pl.Float32))

    yoochoose = real_data / "yoochoose" / "clicks_100k_test.tsv.gz"
    plain = pl.read_csv(gzip.decompress(yoochoose.read_bytes()), separator="\t")
    table = pl.from_arrow(run("sessions", yoochoose, columns=COLUMNS, max_bad_fraction=0).table)
    assert table["item_id"].equals(plain["ItemId"])
    assert (table["timestamp"].dt.epoch("ms") / 1000 - plain["Time"]).abs().max() < 1e-3


def test_movielens(tmp_path, real_data: Path):
    columns = {"user_id": "userId", "item_id": "movieId"}
    for file, rows, tree in (
        ("latest-small/ratings.csv", 100_836, {"columns": columns}),
        ("ml-100k/ml-100k.inter", 100_000, {}),
    ):
        chosen = validate(RatingsSourceSettings, tree, "test")
        record = ingest("interactions", chosen, real_data / "movielens" / file, tmp_path / "raw")
        assert (record["rows_written"], record["rows_quarantined"]) == (rows, 0)
