"""Interactions without times, without ratings, or with an order of their own."""

from collections import defaultdict

import numpy as np
import polars as pl
import pytest

from core.cluster import ClusterSettings
from core.errors import UserError
from core.settings import validate
from pipeline.__main__ import main
from pipeline.data_report.logs import raw_logs, read_log
from pipeline.grow import grow
from pipeline.ingest.clicks import ClickSourceSettings
from pipeline.ingest.ratings import RatingsSourceSettings
from pipeline.preprocess_interactions import (
    InteractionsPreprocessSettings,
    preprocess_interactions,
)
from pipeline.preprocess_ranking import RankingPreprocessSettings, preprocess_ranking
from pipeline.preprocess_sessions import SessionsPreprocessSettings
from pipeline.splits import SPLITS, SplitSettings
from pipeline.stages.ingest import ingest
from workflows.interactions import InteractionsWorkflowSettings

ONE = ClusterSettings(workers=1)
START = 1_600_000_000


def made_rows(seed, rows=400):
    """Pairs, each once, some users with one or two; times and orders of few values."""
    rng = np.random.default_rng(seed)
    pairs = np.array([(u, i) for u in range(40) for i in range(30)])
    chosen = pairs[rng.permutation(len(pairs))[:rows]]
    return pl.DataFrame(
        {
            "user": [f"u{user}" for user in chosen[:, 0]],
            "item": chosen[:, 1],
            "stars": rng.integers(1, 6, rows),
            "at": START + 86_400 * rng.integers(0, 3, rows),
            "place": rng.permutation(rows) - 5,
        }
    )


def ingested(folder, rows, files=1, **columns):
    log = folder / "log"
    log.mkdir(parents=True)
    for number, part in enumerate(np.array_split(np.arange(len(rows)), files)):
        rows[part].write_csv(log / f"part_{number}.csv")
    names = {"user_id": "user", "item_id": "item", "rating": None, "timestamp": None, **columns}
    tree = {"columns": names, "rows_per_shard": 71}
    source = validate(RatingsSourceSettings, tree, "test")
    ingest("interactions", source, log, folder / "raw", quiet=True)
    return folder / "raw"


def settings_for(split, rows_per_part=90, **workflow):
    workflow = InteractionsWorkflowSettings(freq_threshold=1, **workflow)
    return InteractionsPreprocessSettings(
        split=SplitSettings(**split), workflow=workflow, rows_per_part=rows_per_part
    )


def features_of(folder, split):
    parts = [pl.read_parquet(part) for part in sorted((folder / split).glob("*.parquet"))]
    return pl.concat(parts)


def pairs_of(folder, split):
    """The pairs of a split by the items' and users' positions in the vocabularies."""
    frame = features_of(folder, split)
    return sorted(zip(frame["user_id"].to_list(), frame["item_id"].to_list(), strict=True))


def left_out(rows, order):
    """Of each user with three rows or more the last tests and the one before it validates."""
    users = defaultdict(list)
    for row in sorted(range(len(rows)), key=lambda row: order(row)):
        users[rows["user"][row]].append(row)
    splits = {"train": [], "valid": [], "test": []}
    for mine in users.values():
        if len(mine) < 3:
            splits["train"] += mine
        else:
            splits["train"] += mine[:-2]
            splits["valid"].append(mine[-2])
            splits["test"].append(mine[-1])
    return {name: sorted(picked) for name, picked in splits.items()}


def rows_by_report(raws, features, made):
    """The rows of each split as the data report sees them, by their place in the log."""
    log = read_log("interactions", raw_logs(raws, features), features, made)
    splits = {name: [] for name in SPLITS}
    first = 0
    for chunk in log.chunks("item_id"):
        for name, rows in chunk.splits.items():
            splits[name] += [first + row for row in np.arange(len(chunk.values))[rows].tolist()]
        first += len(chunk.values)
    return splits


@pytest.mark.parametrize("seed", range(6))
def test_leave_one_out_follows_the_order_columns_of_the_log(tmp_path, seed):
    rows = made_rows(seed)
    timed, ordered = seed % 2, seed % 3
    columns = {"timestamp": "at" if timed else None, "event_order": "place" if ordered else None}
    raw = ingested(tmp_path, rows, 1 + seed % 4, **columns)
    made = preprocess_interactions(
        raw, tmp_path / "out", settings_for({"kind": "leave_one_out"}, 40 + 100 * seed), ONE
    )
    expected = left_out(
        rows, lambda r: (rows["at"][r] if timed else 0, rows["place"][r] if ordered else 0, r)
    )
    assert rows_by_report([raw], tmp_path / "out", made) == expected
    for name in SPLITS:
        frame = features_of(tmp_path / "out", name)
        assert len(frame) == len(expected[name])
        assert set(frame["rating"]) == {1.0}
        assert timed or set(frame["timestamp"]) == {0.0}
    # The items of the test split are those rows' own: counted by their codes' frequencies.
    train, test = (features_of(tmp_path / "out", name) for name in ("train", "test"))
    counts = rows[expected["train"]]["item"].value_counts()
    of_item = dict(counts.iter_rows())
    of_code = dict(train["item_id"].value_counts().iter_rows())
    tested = sorted(of_item.get(item, 0) for item in rows[expected["test"]]["item"])
    assert tested == sorted(of_code.get(code, 0) for code in test["item_id"])


@pytest.mark.parametrize("seed", range(4))
def test_random_splits_do_not_depend_on_files_and_parts(tmp_path, seed):
    rows = made_rows(seed, 1000)
    split = {
        "kind": "random",
        "test": [0.1, 0.2, 0.3, 0.5][seed],
        "valid": [0.1, 0.3, 0, 0.2][seed],
    }
    runs = []
    for number, (files, per_part) in enumerate([(1, 2000), (3, 77)]):
        raw = ingested(tmp_path / str(number), rows, files, rating="stars")
        out = tmp_path / str(number) / "out"
        made = preprocess_interactions(raw, out, settings_for(split, per_part), ONE)
        runs.append({name: pairs_of(out, name) for name in SPLITS})
        reported = rows_by_report([raw], out, made)
        assert {n: len(picked) for n, picked in reported.items()} == {
            n: len(pairs) for n, pairs in runs[-1].items()
        }
    assert runs[0] == runs[1]
    counts = {name: len(pairs) for name, pairs in runs[0].items()}
    assert sum(counts.values()) == len(rows)
    for name, share in made["bounds"]["shares"].items():
        deviation = np.sqrt(1000 * share * (1 - share))
        assert abs(counts[name] - 1000 * share) <= 4 * deviation


@pytest.mark.parametrize("kind", ["fraction", "days", "window", "last_day_halves"])
def test_a_split_by_time_needs_times_and_names_the_others(tmp_path, kind):
    raw = ingested(tmp_path, made_rows(0))
    message = rf"split.kind '{kind}' cuts by time.*columns.timestamp is null.*random.*leave_one_out"
    with pytest.raises(UserError, match=message):
        preprocess_interactions(raw, tmp_path / "out", settings_for({"kind": kind}), ONE)


def test_pairs_grow_in_the_order_of_the_log(tmp_path):
    rows = made_rows(3)
    settings = settings_for({"kind": "leave_one_out"})
    old, new = rows[:250], rows[250:]
    preprocess_interactions(ingested(tmp_path / "a", old), tmp_path / "out", settings, ONE)
    grow("interactions", ingested(tmp_path / "b", new), tmp_path / "out", settings)
    whole = preprocess_interactions(ingested(tmp_path / "c", rows), tmp_path / "w", settings, ONE)
    grown = {name: len(features_of(tmp_path / "out", name)) for name in SPLITS}
    # What trained as one of few is not held out later.
    assert sum(grown.values()) == len(rows)
    assert grown["test"] <= whole["splits"]["test"]["rows"]
    random = settings_for({"kind": "random"})
    preprocess_interactions(tmp_path / "a" / "raw", tmp_path / "r", random, ONE)
    with pytest.raises(UserError, match=r"split.kind 'random' cannot grow"):
        grow("interactions", tmp_path / "b" / "raw", tmp_path / "r", random)


def test_pairs_alone_train_and_are_evaluated(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ingested(tmp_path, made_rows(4, 1000).select("user", "item"))
    for words in (
        "preprocess interactions --input raw --output f --set interactions.preprocess.split.kind="
        "random --set interactions.preprocess.workflow.positive_from=1",
        "train interactions --input f --output m --set interactions.train.epochs=1",
        "evaluate interactions --features f --model m --metrics m.json --plots p",
        "inspect interactions --raw raw --features f --output i.json --plots q",
    ):
        assert main(words.split()) == 0, words


def test_random_splits_are_refused_for_other_recipes(tmp_path):
    with pytest.raises(ValueError, match="'random' is for the recipe interactions"):
        SessionsPreprocessSettings(split={"kind": "random"})
    log, clicks = tmp_path / "day_0", tmp_path / "clicks"
    line = "\t".join(["1", *["2"] * 13, *["0a1b2c3d"] * 26])
    log.write_text(f"{line}\n" * 20)
    ingest("ranking", ClickSourceSettings(), log, clicks)
    settings = RankingPreprocessSettings(split={"kind": "random"})
    with pytest.raises(UserError, match="'random' is for the recipe interactions"):
        preprocess_ranking(clicks, tmp_path / "out", settings, ONE)
