"""Which rows are a session, and in which order they are, from logs as their owners write them."""

import csv
from collections import defaultdict

import numpy as np
import polars as pl
import pytest

from core.cluster import ClusterSettings
from core.errors import UserError
from core.settings import validate
from pipeline.__main__ import main
from pipeline.grow import grow
from pipeline.ingest.clickstream import ClickstreamSourceSettings
from pipeline.preprocess_sessions import SessionsPreprocessSettings, preprocess_sessions
from pipeline.sessionize import SessionizeSettings
from pipeline.splits import SplitSettings
from pipeline.stages.ingest import ingest
from workflows.sessions import SessionsWorkflowSettings

START = 1_600_000_000
ONE = ClusterSettings(workers=1)
USERS = ["u", "u:", "u\\", "u:1", "\\:", "ü;", "0", "00", "1"]


def write_files(folder, rows, files):
    """The rows as CSV files with a header row each, in their order."""
    folder.mkdir()
    for number, part in enumerate(np.array_split(np.arange(len(rows)), files)):
        with open(folder / f"log_{number}.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys())
            writer.writeheader()
            writer.writerows(rows[row] for row in part)
    return folder


def sequences(folder, rows, files, source, per_part):
    """The items of each session by its id, through ingest and preprocess."""
    columns = {"category": None, "brand": None, "price": None, **source.pop("columns", {})}
    tree = {"columns": columns, "rows_per_shard": 37, "types": {"item_id": "integer"}, **source}
    settings = validate(ClickstreamSourceSettings, tree, "test")
    log = write_files(folder / "log", rows, files)
    ingest("sessions", settings, log, folder / "raw", quiet=True)
    preprocessing = SessionsPreprocessSettings(
        split=SplitSettings(test=0.2, valid=0),
        sessions=SessionizeSettings(drop_repeats=False, max_length=10_000),
        workflow=SessionsWorkflowSettings(categorical=(), continuous=()),
        events_per_part=per_part,
    )
    manifest = preprocess_sessions(folder / "raw", folder / "out", preprocessing, ONE)
    sessions = {}
    for split in ("train", "valid", "test"):
        for path in sorted((folder / "out" / split).glob("*.parquet")):
            for row in pl.read_parquet(path).iter_rows(named=True):
                sessions[row["session_id"]] = row["item_id"]
    return sessions, " ".join(manifest["warnings"])


def expected_sequences(rows, key, order):
    """The same from plain Python; a stable sort keeps rows that are equal in their order."""
    sessions = defaultdict(list)
    for row in sorted(rows, key=order):
        sessions[key(row)].append(row["item_id"])
    return {name: items for name, items in sessions.items() if len(items) > 1}


def assert_same(sessions, expected):
    """Items are coded: the codes of one item are one, and those of two are two."""
    assert sessions.keys() == expected.keys()
    of_item = {}
    for name, items in expected.items():
        codes = sessions[name]
        assert len(codes) == len(items), name
        for item, code in zip(items, codes, strict=True):
            if code != 2:  # Out of vocabulary: not in a training session.
                assert of_item.setdefault(item, code) == code, (name, items, codes)
    assert len(set(of_item.values())) == len(of_item)


def made_log(seed):
    """Events of users whose sessions count from 1, most of them in one second with others."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(rng.integers(60, 300)):
        user, session = int(rng.integers(len(USERS))), int(rng.integers(4))
        rows.append(
            {
                "user_id": USERS[user],
                "session_id": ["1", "2", ":1", "1:2"][session] if seed % 2 else session,
                "item_id": int(rng.integers(12)),
                "timestamp": START + 1000 * session + 50 * user + int(rng.integers(4)),
                "hit": int(rng.integers(-3, 2**62)) if rng.random() < 0.9 else "",
            }
        )
    return rows, int(rng.integers(1, 5)), int(rng.integers(20, 400))


@pytest.mark.parametrize("seed", range(8))
def test_sessions_are_per_user_in_the_order_of_the_log(tmp_path, seed):
    rows, files, per_part = made_log(seed)
    source = {"session_per_user": True, "columns": {"user_id": "user_id", "event_order": "hit"}}
    sessions, _ = sequences(tmp_path, rows, files, source, per_part)
    expected = expected_sequences(
        rows,
        lambda row: (
            row["user_id"].replace("\\", "\\\\").replace(":", "\\:") + f":{row['session_id']}"
        ),
        lambda row: (row["timestamp"], row["hit"] != "", row["hit"] or 0),
    )
    assert_same(sessions, expected)


@pytest.mark.parametrize("seed", range(8, 14))
def test_rows_of_one_time_stay_in_log_order_without_an_order_column(tmp_path, seed):
    rows, files, per_part = made_log(seed)
    sessions, _ = sequences(tmp_path, rows, files, {"id_type": "string"}, per_part)
    expected = expected_sequences(
        rows, lambda row: str(row["session_id"]), lambda row: row["timestamp"]
    )
    assert_same(sessions, expected)


@pytest.mark.parametrize(("given", "warns"), [(None, True), (False, False), (True, False)])
def test_session_ids_of_several_users_are_warned_of(tmp_path, given, warns):
    rows = [
        {
            "user_id": user,
            "session_id": session,
            "item_id": n,
            "timestamp": START + 60 * n + session,
        }
        for user in range(6)
        for session in range(1, 6)
        for n in range(3)
    ]
    rows += [{**rows[0], "session_id": 9, "item_id": n} for n in range(9)]
    source = {"columns": {"user_id": "user_id"}, "session_per_user": given}
    sessions, warned = sequences(tmp_path, rows, 2, source, 50)
    assert len(sessions) == (31 if given else 6)
    assert ("5 of 6 session ids have several users (one has 6)" in warned) == warns
    assert ("sessions.source.session_per_user: true" in warned) == warns


def test_session_per_user_needs_columns_of_the_user_and_session():
    for columns in ({"user_id": None}, {"session_id": None, "user_id": "u"}):
        with pytest.raises(UserError, match="session_per_user needs columns"):
            tree = {"columns": columns, "session_per_user": True}
            if "session_id" in columns:
                tree["session_gap_minutes"] = 5
            validate(ClickstreamSourceSettings, tree, "test")


def test_an_order_that_is_no_integer_is_a_bad_line(tmp_path):
    rows = [
        {"session_id": n // 9, "item_id": n % 4, "timestamp": START + n, "hit": n}
        for n in range(90)
    ]
    rows[50]["hit"] = "last"
    log = write_files(tmp_path / "log", rows, 1)
    tree = {"columns": {"event_order": "hit"}}
    settings = validate(ClickstreamSourceSettings, tree, "test")
    ingest("sessions", settings, log, tmp_path / "raw", quiet=True)
    bad = pl.read_parquet(tmp_path / "raw" / "quarantine.parquet")
    assert bad["reason"].to_list() == [
        "hit: not a 64-bit integer (setting columns.event_order): 'last'"
    ]


def answered(folder, rows, settings, k=5):
    """The lists of sequential rules, fitted on some rows and asked for the same rows."""
    write_files(folder / "log", rows, 3)
    given = [
        "sessions.source.columns={category: null, brand: null, price: null, user_id: user_id, "
        "event_order: hit}",
        "sessions.source.types={item_id: integer}",
        "sessions.model=sequential_rules",
        "sessions.preprocess.split.test=0.1",
        "sessions.preprocess.split.valid=0",
        *settings,
    ]
    words = [word for setting in given for word in ("--set", setting)]
    raw, features, model, bundle = (str(folder / name) for name in ("raw", "out", "model", "b"))
    output = folder / "next.csv"
    for command in (
        ["ingest", "sessions", "--input", str(folder / "log"), "--output", raw],
        ["preprocess", "sessions", "--input", raw, "--output", features],
        ["train", "sessions", "--input", features, "--output", model],
        ["export", "sessions", "--features", features, "--model", model, "--output", bundle],
    ):
        assert main([*command, *words]) == 0
    asked = ["recommend", "--bundle", bundle, "--input", str(folder / "log")]
    assert main([*asked, "--output", str(output), "-k", str(k)]) == 0
    return pl.read_csv(output, infer_schema=False)


@pytest.mark.parametrize("seed", [0, 1])
def test_answers_know_sessions_by_user_and_events_by_their_order(tmp_path, seed):
    """After item n always comes n + 1, if events are in the order of their hits."""
    rng = np.random.default_rng(seed)
    rows, last = [], {}
    for number in range(150):
        user, session = USERS[number % len(USERS)], number // len(USERS)
        first = int(rng.integers(12))
        at = START + 3600 * number
        steps = [
            dict(user_id=user, session_id=session, item_id=(first + n) % 12, timestamp=at, hit=n)
            for n in range(int(rng.integers(2, 6)))
        ]
        last[user, str(session)] = steps[-1]["item_id"]
        rows += [steps[place] for place in rng.permutation(len(steps))]
    settings = ["sessions.source.session_per_user=true"]
    answers = answered(tmp_path, rows, settings).filter(pl.col("rank") == "1")
    assert answers.columns[:4] == ["user_id", "session_id", "rank", "item_id"]
    firsts = {(user, session): int(item) for user, session, _, item, *_ in answers.iter_rows()}
    assert firsts == {whose: (item + 1) % 12 for whose, item in last.items()}


@pytest.mark.parametrize("seed", range(3))
def test_held_out_sessions_go_on_in_the_order_of_the_log(tmp_path, seed):
    """A session whose events come in two raw logs, all of one second, is in the order of hits."""
    rng = np.random.default_rng(seed)
    rows = []
    for session in range(30):
        for hit in rng.permutation(6):
            rows.append(dict(session_id=session, item_id=int(rng.integers(9)), hit=int(hit)))
            rows[-1]["timestamp"] = START + 60 * session
    late = [row["session_id"] >= 26 and rng.random() < 0.5 for row in rows]
    tree = {"columns": {"event_order": "hit"}}
    settings = validate(ClickstreamSourceSettings, tree, "test")
    preprocessing = SessionsPreprocessSettings(
        split=SplitSettings(test=0.1, valid=0.1), sessions=SessionizeSettings(drop_repeats=False)
    )
    for name, kept in (("old", False), ("new", True)):
        mine = [row for row, of_new in zip(rows, late, strict=True) if of_new == kept]
        log = write_files(tmp_path / name, mine, 2)
        ingest("sessions", settings, log, tmp_path / f"{name}.raw", quiet=True)
    preprocess_sessions(tmp_path / "old.raw", tmp_path / "out", preprocessing, ONE)
    grow("sessions", tmp_path / "new.raw", tmp_path / "out", preprocessing, ONE)
    sessions = {}
    for path in (tmp_path / "out").glob("*/part-*.parquet"):
        for row in pl.read_parquet(path).iter_rows(named=True):
            sessions[row["session_id"]] = row["item_id"]
    expected = expected_sequences(
        rows, lambda row: row["session_id"], lambda row: (row["timestamp"], row["hit"])
    )
    assert_same(sessions, expected)
