"""Logs with what goes wrong in real ones, from raw lines to recommendations, with known answers."""

import csv
import json
import random

import polars as pl
import pytest

from pipeline.__main__ import main

DAY = 86_400
MONDAY = 18_519 * DAY
"""A midnight UTC."""
ITEMS = [f"café №{number}, {'🍎🍐🍊🍋'[number % 4]}" for number in range(20)]
NO_COLUMNS = [
    f"sessions.source.columns.{c}=null" for c in ("category", "brand", "price", "user_id")
]
SMALL = [
    "sessions.train.epochs=1",
    "sessions.train.threads=1",
    "sessions.gpt2.d_model=16",
    "sessions.gpt2.heads=2",
]
MODELS = ["gpt2", "vsknn"]
LAST_DAYS = ["sessions.preprocess.split.kind=days", "sessions.preprocess.split.test_days=3"]


def command(*words, settings=()):
    return main([*words, *(word for item in settings for word in ("--set", item))])


def write_log(path):
    """Days 0, 1, 3 and 4, none on day 2: walks over the items, and five sessions of note."""
    rng = random.Random(0)
    rows = []

    def session(name, start, items, gap=60):
        rows.extend((name, item, start + number * gap) for number, item in enumerate(items))

    for number in range(160):
        day = (0, 1, 3, 4)[number // 40]
        first = rng.randrange(20)
        items = [ITEMS[(first + step) % 20] for step in range(rng.randrange(2, 6))]
        # Every fourth session has one time for all of its events.
        session(f"s,{number} 🦊", MONDAY + day * DAY + number * 500, items, 60 * (number % 4 > 0))
    session("over midnight", MONDAY + DAY - 90, ITEMS[:4])
    session("over days", MONDAY + DAY + 10, ITEMS[5:9], 2 * DAY)
    late = MONDAY + 4 * DAY + 80_000
    session("one event", late, ITEMS[3:4])
    session("new items", late + 10, ["never, seen 🆕", ITEMS[3], "nor this 🆕", ITEMS[4]])
    session("only new", late + 20, ["never, seen 🆕", "nor this 🆕"])
    order = list(range(len(rows)))
    rng.shuffle(order)
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(
            [("session_id", "item_id", "timestamp"), *(rows[at] for at in order)]
        )
    return [rows[at] for at in order]


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    folder = tmp_path_factory.mktemp("odd")
    rows = write_log(folder / "log.csv")
    raw = ["--input", str(folder / "log.csv"), "--output", str(folder / "raw")]
    assert command("ingest", "sessions", *raw, settings=NO_COLUMNS) == 0
    features = ["--input", str(folder / "raw"), "--output", str(folder / "features")]
    assert command("preprocess", "sessions", *features, settings=LAST_DAYS) == 0
    return folder, rows


def read(folder, split):
    frame = pl.read_parquet(folder / "features" / split / "*.parquet")
    return dict(zip(frame["session_id"], frame["item_id"].to_list(), strict=True))


def test_sessions_belong_to_the_day_that_they_start_on(log):
    folder, _ = log
    splits = {split: read(folder, split) for split in ("train", "valid", "test")}
    before = splits["train"] | splits["valid"]
    assert len(before) == 82 and "over midnight" in before
    assert [len(before[name]) for name in ("over midnight", "over days")] == [4, 4]
    # The last three days with the one that has no session: 80 walks and two of those of note.
    assert len(splits["test"]) == 82 and {"new items", "only new"} <= set(splits["test"])
    assert not any("one event" in sessions for sessions in splits.values())
    assert splits["test"]["only new"] == [2, 2] and splits["test"]["new items"][::2] == [2, 2]


def test_events_of_one_time_keep_the_order_of_the_log(log):
    folder, rows = log
    found = {split: read(folder, split) for split in ("train", "valid", "test")}
    found = {name: codes for sessions in found.values() for name, codes in sessions.items()}
    events = {name: [row for row in rows if row[0] == name] for name in found}
    timed = {name for name in found if len({row[2] for row in events[name]}) > 1}
    codes = {}
    for name in timed:
        in_time = sorted(events[name], key=lambda row: row[2])
        codes |= dict(zip((row[1] for row in in_time), found[name], strict=True))
    assert set(ITEMS) <= set(codes) and len(set(found) - timed) > 30
    for name in set(found) - timed:
        assert found[name] == [codes[item] for _, item, _ in events[name]]


@pytest.mark.parametrize("name", MODELS)
def test_the_road_with_them(log, name, tmp_path):
    folder, rows = log
    settings = [*SMALL, f"sessions.model={name}"]
    features, model, bundle = folder / "features", tmp_path / "model", tmp_path / "bundle"
    train = ["--input", str(features), "--output", str(model)]
    assert command("train", "sessions", *train, settings=settings) == 0
    judge = ["--features", str(features), "--model", str(model)]
    outputs = ["--metrics", str(tmp_path / "m.json"), "--plots", str(tmp_path / "plots")]
    assert command("evaluate", "sessions", *judge, *outputs, settings=settings) == 0
    found = json.loads((tmp_path / "m.json").read_text())
    # Of "new items" one step is left, of "only new" none; repeats and one-event sessions there are
    # not.
    test = read(folder, "test")
    known = [sum(code >= 3 for code in codes) for codes in test.values()]
    assert found["predictions"] == sum(max(count - 1, 0) for count in known)
    assert found["sessions"] == len(test) - 1
    assert command("export", "sessions", *judge, "--output", str(bundle)) == 0
    given = ["--bundle", str(bundle), "--input", str(folder / "log.csv")]
    assert command("recommend", *given, "--output", str(tmp_path / "next.csv"), "-k", "3") == 0
    lists = pl.read_csv(tmp_path / "next.csv").group_by("session_id", maintain_order=True)
    lists = {session: items["item_id"].to_list() for (session,), items in lists}
    # Every session of the log gets a list, of items that were trained on, and not the last one.
    assert set(lists) == {session for session, _, _ in rows}
    assert all(len(items) == 3 and set(items) <= set(ITEMS) for items in lists.values())
    assert ITEMS[3] not in lists["one event"] and ITEMS[4] not in lists["new items"]


def test_a_day_without_data_has_nothing_to_test_on(log, tmp_path, capsys):
    folder, _ = log
    window = ["kind=window", "test_day=2"]
    settings = [f"sessions.preprocess.split.{item}" for item in window]
    features, model = tmp_path / "features", tmp_path / "model"
    raw = ["--input", str(folder / "raw"), "--output", str(features)]
    assert command("preprocess", "sessions", *raw, settings=settings) == 0
    train = ["--input", str(features), "--output", str(model)]
    assert command("train", "sessions", *train, settings=["sessions.model=popular"]) == 0
    judge = ["--features", str(features), "--model", str(model)]
    outputs = ["--metrics", str(tmp_path / "m.json"), "--plots", str(tmp_path / "plots")]
    capsys.readouterr()
    assert command("evaluate", "sessions", *judge, *outputs) == 1
    assert "the test split has no rows" in capsys.readouterr().err


def one_item_features(folder, items, *settings):
    """Sessions of three events over ``items``, through ingest and preprocess."""
    rows = [(s, items[k % len(items)], MONDAY + 1000 * s + k) for s in range(60) for k in range(3)]
    with open(folder / "one.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("session_id", "item_id", "timestamp"), *rows])
    raw = ["--input", str(folder / "one.csv"), "--output", str(folder / "raw")]
    assert command("ingest", "sessions", *raw, settings=NO_COLUMNS) == 0
    features = ["--input", str(folder / "raw"), "--output", str(folder / "features")]
    return command("preprocess", "sessions", *features, settings=settings)


def test_a_catalogue_of_one_item(tmp_path, capsys):
    """Without repeats nothing is left to learn, which is said; with them it is always right."""
    assert one_item_features(tmp_path, ["only"]) == 1
    assert "nothing is left to fit on" in capsys.readouterr().err
    repeats = "sessions.preprocess.sessions.drop_repeats=false"
    assert one_item_features(tmp_path, ["only"], repeats) == 0
    judged = "sessions.evaluate.drop_repeats=false"
    settings = [*SMALL, "sessions.model=gpt2", "sessions.gpt2.drop_repeats=false", judged]
    folders = {name: str(tmp_path / name) for name in ("features", "model", "bundle")}
    train = ["--input", folders["features"], "--output", folders["model"]]
    assert command("train", "sessions", *train, settings=settings) == 0
    judge = ["--features", folders["features"], "--model", folders["model"]]
    outputs = ["--metrics", str(tmp_path / "m.json"), "--plots", str(tmp_path / "plots")]
    assert command("evaluate", "sessions", *judge, *outputs, settings=settings) == 0
    assert json.loads((tmp_path / "m.json").read_text())["recall@20"] == 1.0
    bundle = ["--output", folders["bundle"]]
    assert command("export", "sessions", *judge, *bundle, settings=settings) == 0
    given = ["--bundle", folders["bundle"], "--input", str(tmp_path / "one.csv")]
    assert command("recommend", *given, "--output", str(tmp_path / "next.csv"), "-k", "5") == 0
    assert pl.read_csv(tmp_path / "next.csv")["item_id"].to_list() == ["only"] * 60


def test_items_too_rare_to_have_a_code_leave_one(tmp_path, capsys):
    """Then no step is left to learn or to judge, which is said."""
    capped = "sessions.preprocess.workflow.max_items=4"
    assert one_item_features(tmp_path, ["often", "rare"], capped) == 0
    train = ["--input", str(tmp_path / "features"), "--output", str(tmp_path / "model")]
    assert command("train", "sessions", *train, settings=[*SMALL, "sessions.model=gpt2"]) == 1
    assert "ndcg@20 is not defined on the validation split" in capsys.readouterr().err
