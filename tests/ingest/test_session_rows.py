"""Parquet with a whole session in each row: unfolded into events, bad rows set aside."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.errors import UserError

COLUMNS = {"session_id": "sid", "item_id": "items", "timestamp": "at"}
DAY = 86_400_000


def table(**changes):
    """Three sessions, the second of one event, with a list and a plain column beside the items."""
    columns = {
        "sid": [7, 8, 9],
        "items": [[1, 2, 2], [5], [3, 4]],
        "at": [[100, 200, 300], [150], [50, 60]],
        "price": [[0.5, None, 1.5], [2.0], [3.0, 4.0]],
        "user": ["a", "b", None],
    }
    return pa.table({**columns, **changes})


@pytest.fixture
def folder(tmp_path):
    """``folder(name, table)`` → a Parquet file in a folder of that name."""

    def written(name, rows):
        (tmp_path / name).mkdir(exist_ok=True)
        path = tmp_path / name / f"part-{len(list((tmp_path / name).iterdir()))}.parquet"
        pq.write_table(rows, path, row_group_size=2)
        return path

    return written


def test_events_in_the_order_of_their_lists(run, folder):
    path = folder("a", table())
    columns = {**COLUMNS, "price": "price", "user_id": "user"}
    rows = run("sessions", path, layout="sessions", columns=columns, time_format="unix_s").rows
    assert [
        (row["session_id"], row["item_id"], row["timestamp"].timestamp(), row["price"])
        for row in rows
    ] == [
        (7, 1, 100, 0.5),
        (7, 2, 200, None),
        (7, 2, 300, 1.5),
        (8, 5, 150, 2.0),
        (9, 3, 50, 3.0),
        (9, 4, 60, 4.0),
    ]
    assert [row["user_id"] for row in rows] == ["a", "a", "a", "b", None, None]


def test_lists_of_unequal_length_are_set_aside(run, folder):
    path = folder("a", table(at=[[100, 200], [150], [50, 60]]))
    result = run("sessions", path, layout="sessions", columns=COLUMNS, time_format="unix_s")
    assert [row["session_id"] for row in result.rows] == [8, 9, 9]
    assert result.reasons == [(1, "at: 2 values, items: 3")]
    assert "'sid': 7" in result.bad[0]["text"] or '"sid": 7' in result.bad[0]["text"]


def test_a_missing_item_is_set_aside_with_its_row(run, folder):
    path = folder("a", table(items=[[1, None, 2], [5], [3, 4]]))
    result = run("sessions", path, layout="sessions", columns=COLUMNS, time_format="unix_s")
    assert [row["item_id"] for row in result.rows] == [1, 2, 5, 3, 4]
    assert result.reasons == [(1, "items: missing")]


def test_without_times_each_folder_is_a_day(run, folder):
    columns = {"session_id": None, "item_id": "items", "timestamp": None}
    paths = [folder("d9", table()), folder("d9", table()), folder("d10", table())]
    result = run("sessions", [paths[0], paths[1], paths[2]], layout="sessions", columns=columns)
    sessions = {}
    for row in result.rows:
        sessions.setdefault(row["session_id"], []).append(row)
    assert len(sessions) == 9
    for number, (session, rows) in enumerate(sorted(sessions.items())):
        times = [int(row["timestamp"].timestamp() * 1000) for row in rows]
        assert {time // DAY for time in times} == {0 if number < 6 else 1}
        assert times == sorted(set(times)), session
    assert [row["item_id"] for row in sorted(sessions.items())[0][1]] == [1, 2, 2]
    starts = [rows[0]["timestamp"].time() for rows in sessions.values()]
    assert len(set(starts)) == 9
    again = run("sessions", paths, layout="sessions", columns=columns)
    assert again.rows == result.rows


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"columns": {**COLUMNS, "item_id": "sid"}}, "'sid' .* is int64, expected a list"),
        ({"columns": {**COLUMNS, "item_id": "nothing"}}, "no column 'nothing'"),
        ({"layout": "events", "columns": {**COLUMNS, "timestamp": None}}, "unless layout is"),
        (
            {"columns": {**COLUMNS, "session_id": None}, "session_gap_minutes": 5},
            "session_gap_minutes needs layout: events",
        ),
    ],
)
def test_what_does_not_fit_is_named(run, folder, settings, message):
    path = folder("a", table())
    with pytest.raises(UserError, match=message):
        run("sessions", path, **{"layout": "sessions", **settings})


def test_text_has_no_lists(run, write):
    path = write("a.csv", "sid,items,at\n1,2,3\n")
    with pytest.raises(UserError, match=r"a\.csv: csv; .* reads Parquet and JSON lines only"):
        run("sessions", path, layout="sessions", columns=COLUMNS)
