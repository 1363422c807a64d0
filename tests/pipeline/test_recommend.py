"""What ``recommend`` names, and what it leaves out, from tiny logs with answers known by hand."""

import csv
import itertools
import json
import shutil
from collections import Counter

import polars as pl
import pytest

from core.errors import UserError
from core.sums import write_manifest
from pipeline.__main__ import main
from pipeline.scoring import recommend

START = 1_600_000_000
HEADER = ("session_id", "item_id", "timestamp")
ABSENT = ("category", "brand", "price", "user_id")
EARLIEST = ["sessions.preprocess.split.test=0.05", "sessions.preprocess.split.valid=0"]
POPULAR = ["sessions.model=popular"]


def command(*words, settings=()):
    return main([*map(str, words), *(word for item in settings for word in ("--set", item))])


def write_log(path, sessions, header=HEADER, pause=3600):
    """One session or visit after another, its events a minute apart."""
    rows = [
        (name, item, START + number * pause + place * 60)
        for number, (name, items) in enumerate(sessions)
        for place, item in enumerate(items)
    ]
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def ingested(log, absent=ABSENT, settings=()):
    source = [f"sessions.source.columns.{name}=null" for name in absent]
    raw = log.with_suffix(".raw")
    given = ["--input", log, "--output", raw]
    assert command("ingest", "sessions", *given, settings=[*source, *settings]) == 0
    return raw


def exported(folder, raw, settings=(), grow=()):
    """The bundle of a popularity model of the log ``raw``, and of those that it ``grow``s by."""
    features, model, bundle = folder / "features", folder / "model", folder / "bundle"
    settings = [*EARLIEST, *POPULAR, *settings]
    given = ["--input", raw, "--output", features]
    assert command("preprocess", "sessions", *given, settings=settings) == 0
    for more in grow:
        given = ["--input", more, "--output", features, "--grow"]
        assert command("preprocess", "sessions", *given, settings=settings) == 0
    given = ["--input", features, "--output", model]
    assert command("train", "sessions", *given, settings=settings) == 0
    given = ["--features", features, "--model", model, "--output", bundle]
    assert command("export", "sessions", *given, settings=settings) == 0
    return bundle


def lists(found, key="session_id"):
    """The items of each list in their order; their ranks must run from 1."""
    groups = list(found.group_by(key, maintain_order=True))
    assert all(group["rank"].to_list() == list(range(1, len(group) + 1)) for _, group in groups)
    return {name: group["item_id"].to_list() for (name,), group in groups}


TRAINED = [(f"s{n}", ("abcabdab", "abcabda", "abcabc")[n % 3]) for n in range(30)]
"""From the most frequent item to the least: a, b, c, d."""
ASKED = [("short", "b"), ("two", "cb"), ("back", "abca"), ("again", "ddaa"), ("new", "zy")]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A log of four items, and another one to recommend for."""
    folder = tmp_path_factory.mktemp("small")
    log = write_log(folder / "log.csv", TRAINED)
    return ingested(log), write_log(folder / "asked.csv", ASKED)


@pytest.fixture(scope="module")
def bundle(small, tmp_path_factory):
    return exported(tmp_path_factory.mktemp("bundle"), small[0])


@pytest.mark.parametrize("k", [1, 2, 3, 4, 20])
def test_a_catalogue_with_fewer_items_than_are_asked_for(small, bundle, tmp_path, k, capsys):
    output = tmp_path / "next.csv"
    assert command("recommend", "--bundle", bundle, "--input", small[1],
                   "--output", output, "-k", k) == 0  # fmt: skip
    found = lists(pl.read_csv(output))
    expected = {"short": "acd", "two": "acd", "back": "bcd", "again": "bcd", "new": "abcd"}
    assert found == {name: [*items][:k] for name, items in expected.items()}
    message = (
        f"5 sessions, at most {min(k, 4)} item{'s' * (k > 1)} each, 1 without a known item: "
        f"the most frequent ones are listed → {output}"
    )
    assert message in " ".join(capsys.readouterr().out.split())
    sources = dict(pl.read_csv(output).select("session_id", "source").unique().iter_rows())
    assert sources == {name: "popular" if name == "new" else "model" for name in expected}


@pytest.mark.parametrize("k", ["0", "-1", "some", "2.5"])
def test_a_list_has_at_least_one_item(k, capsys):
    with pytest.raises(SystemExit) as left:
        command("recommend", "--input", "x", "--output", "y.csv", "-k", k)
    assert left.value.code == 2
    assert f"-k: expected an integer of at least 1, got '{k}'" in capsys.readouterr().err
    if k in ("0", "-1"):
        with pytest.raises(UserError, match=f"k: expected an integer of at least 1, got {k}"):
            recommend("bundle", "x", "y.csv", k=int(k))


def test_more_bad_lines_than_usual_are_let_through_on_request(bundle, tmp_path, capsys):
    log = write_log(tmp_path / "log.csv", ASKED)
    with open(log, "a") as file:
        file.write("late,a,at noon\nlater,b,at night\n")
    given = ["--bundle", bundle, "--input", log, "--output", tmp_path / "next.csv"]
    assert command("recommend", *given) == 1
    message = " ".join(capsys.readouterr().err.split())
    assert "2 of 15 lines are bad (13.3%; max_bad_fraction allows 1.0%)" in message
    assert "or raise --max-bad-fraction to leave these lines out." in message
    assert "(setting" not in message and "null_values" not in message
    assert command("recommend", *given, "--max-bad-fraction", "0.2") == 0
    message = " ".join(capsys.readouterr().out.split())
    assert "5 sessions, at most 4 items each," in message and "2 quarantined" in message
    assert "2 lines: timestamp wrong (2); the first: " in message
    for line in (15, 16):
        assert f"{log}:{line}: timestamp" in message
    assert command("recommend", *given, "--max-bad-fraction", "0.1") == 1
    assert "max_bad_fraction allows 10.0%" in capsys.readouterr().err
    assert command("recommend", *given, "--max-bad-fraction", "2") == 1
    assert "max_bad_fraction: input should be less than or equal to 1" in capsys.readouterr().err


def test_a_log_without_an_event_of_the_types_that_are_kept(tmp_path, capsys):
    raw = ingested(write_log(tmp_path / "log.csv", TRAINED))
    bundle = exported(tmp_path, raw)
    record = json.loads((bundle / "bundle.json").read_text())
    record["source"]["columns"]["event_type"] = "kind"
    record["source"]["keep_event_types"] = ["buy"]
    write_manifest(bundle / "bundle.json", record, record["checksums"])
    (tmp_path / "views.csv").write_text("session_id,item_id,timestamp,kind\ns,a,1600000000,view\n")
    given = ["--input", tmp_path / "views.csv", "--output", tmp_path / "next.csv"]
    assert command("recommend", "--bundle", bundle, *given) == 1
    message = " ".join(capsys.readouterr().err.split())
    assert "no event of the log is of a type that keep_event_types keeps (buy)" in message


def test_events_that_repeat_an_item_change_nothing_as_in_training(small, tmp_path):
    """Not even the pauses that a model reads: they are between the events that are kept."""
    reads = ["sessions.model=gpt2", "sessions.gpt2.side_features=[gap]", "sessions.train.epochs=1"]
    bundle = exported(
        tmp_path, small[0], [*reads, "sessions.gpt2.d_model=16", "sessions.gpt2.heads=2"]
    )
    log = write_log(tmp_path / "log.csv", [("one", "aabbbcc"), ("two", "daaac")])
    found = recommend(bundle, log, tmp_path / "next.csv")
    header, *lines = log.read_text().splitlines()
    pairs = itertools.pairwise([header, *lines])
    kept = [line for before, line in pairs if line.split(",")[:2] != before.split(",")[:2]]
    assert len(kept) == 6
    log.write_text("\n".join([header, *kept]) + "\n")
    assert recommend(bundle, log, tmp_path / "next.csv").equals(found)


def test_sessions_cut_from_users_give_each_user_the_latest_ones_list(tmp_path):
    """Visits an hour apart: ``ann`` comes first and last."""
    visits = [(f"user {number % 5}", items) for number, (_, items) in enumerate(TRAINED)]
    header = ("user_id", *HEADER[1:])
    log = write_log(tmp_path / "log.csv", visits, header)
    cut = ["sessions.source.session_gap_minutes=30", "sessions.source.columns.user_id=user_id"]
    raw = ingested(log, (*ABSENT[:3], "session_id"), cut)
    bundle = exported(tmp_path, raw)
    visits = [("ann", "cab"), ("bob", "zy"), ("cid", "ab"), ("cid", "dc"), ("ann", "ba")]
    write_log(tmp_path / "asked.csv", visits, header)
    answers = recommend(bundle, tmp_path / "asked.csv", tmp_path / "next.parquet")
    assert answers.columns == ["user_id", "rank", "item_id", "score", "source"]
    expected = {"ann": [*"bcd"], "bob": [*"abcd"], "cid": [*"abd"]}
    assert lists(answers, "user_id") == expected
    assert pl.read_parquet(tmp_path / "next.parquet").equals(answers)


EXCLUDED = {
    "exclude_seen=true": {"short": "acd", "two": "ad", "back": "d", "again": "bc", "new": "abcd"},
    "exclude_last_item=false": dict.fromkeys(("short", "two", "back", "again", "new"), "abcd"),
    # Without drop_repeats the item viewed last can be the answer.
    "drop_repeats=false": dict.fromkeys(("short", "two", "back", "again", "new"), "abcd"),
}


@pytest.mark.parametrize("setting", EXCLUDED)
def test_what_the_evaluation_leaves_out_is_not_recommended(small, tmp_path, setting):
    bundle = exported(tmp_path, small[0], [f"sessions.evaluate.{setting}"])
    found = lists(recommend(bundle, small[1], tmp_path / "next.csv"))
    assert found == {name: [*items] for name, items in EXCLUDED[setting].items()}


def test_all_that_a_session_held_is_left_out_however_little_the_model_looks_back_over(
    small, tmp_path
):
    """And a session that held everything gets no list, also where there is no other."""
    bundle = exported(tmp_path, small[0], ["sessions.evaluate.exclude_seen=true"])
    log = write_log(tmp_path / "log.csv", [("all", "abcd"), ("long", "ab" * 60), ("one", "c")])
    found = lists(recommend(bundle, log, tmp_path / "next.csv"))
    assert found == {"long": ["c", "d"], "one": ["a", "b", "d"]}
    log = write_log(tmp_path / "log.csv", [("all", "abcd")])
    found = recommend(bundle, log, tmp_path / "next.csv")
    assert found.is_empty() and found["session_id"].dtype == found["item_id"].dtype == pl.String


def test_an_older_bundle_is_to_be_exported_again(bundle, tmp_path, capsys):
    old = tmp_path / "bundle"
    shutil.copytree(bundle, old)
    record = json.loads((old / "bundle.json").read_text())
    del record["checksums"], record["sha256"]
    (old / "bundle.json").write_text(json.dumps(record))
    given = ["--input", "log.csv", "--output", tmp_path / "next.csv"]
    assert command("recommend", "--bundle", old, *given) == 1
    told = " ".join(capsys.readouterr().err.split())
    assert "bundle.json: made by an older version" in told and "export' again" in told


def test_a_session_of_unknown_items_gets_the_most_frequent_ones_of_a_vocabulary_that_grew(
    tmp_path,
):
    """Codes stay as they are: after the first log a, b, c; d is new, c overtakes a."""
    first = write_log(tmp_path / "first.csv", [(f"s{n}", "aba" + "c" * (n < 5)) for n in range(20)])
    second = [(f"t{n}", "cdcd" + "cb" * (n % 2)) for n in range(40)]
    # Its events come after those of the first log.
    second = write_log(tmp_path / "second.csv", second, pause=36_000)
    raws = [ingested(log) for log in (first, second)]
    bundle = exported(tmp_path, raws[0], grow=raws[1:])
    [codes] = bundle.glob("state/*/unique.item_id.parquet")
    assert pl.read_parquet(codes)["value"].to_list() == [*"abcd"]
    trained = pl.read_parquet(tmp_path / "features" / "train" / "*.parquet")["item_id"]
    counts = Counter(trained.explode().to_list())
    frequent = ["abcd"[code - 3] for code in sorted(counts, key=lambda code: (-counts[code], code))]
    assert frequent[0] == "c"
    log = write_log(tmp_path / "asked.csv", [("new", "zy")])
    assert lists(recommend(bundle, log, tmp_path / "next.csv")) == {"new": frequent}
