"""The synthetic session log: format, determinism, and the filter against enumeration."""

import itertools
import re

import numpy as np
import polars as pl
import pytest

from core.errors import UserError
from core.settings import validate
from pipeline.synthetic.session_process import (
    filter_interests,
    make_process,
    predictive,
    successor_probability,
)
from pipeline.synthetic.sessions import (
    FIRST_SECOND,
    METRICS,
    SessionsGenerateSettings,
    expected_metrics,
    generate_sessions,
)

SETTINGS = SessionsGenerateSettings(sessions=3000, days=3, items=300, users=900, seed=5)
LINE = re.compile(r"\d+,\d+,\d{10},\d{7},category_\d{3},(brand_\d{3})?,\d+\.\d\d")


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sessions")
    return folder, generate_sessions(SETTINGS, folder)


def events(folder):
    return pl.concat([pl.read_csv(folder / f"log/events_day_{day}.csv") for day in range(3)])


def click_probability(process, z, item, previous):
    """The process as its definition reads, one number at a time."""
    base = process.base[z, item]
    if previous is None:
        return base
    if item == previous:
        return 0.0
    total = (1 - process.follow) * base / (1 - process.base[z, previous])
    for successor, weight in zip(
        process.successors[previous], process.successor_weights, strict=True
    ):
        if successor == item:
            total += process.follow * weight
    return total


def enumerate_next(process, prefix):
    """Next-item distribution by summing over every path of interests."""
    interests, items = process.base.shape
    joint = np.zeros(items)
    for path in itertools.product(range(interests), repeat=len(prefix) + 1):
        chance = process.pi[path[0]]
        for here, there in itertools.pairwise(path):
            chance *= (1 - process.drift) * (here == there) + process.drift * process.pi[there]
        for step, item in enumerate(prefix):
            chance *= click_probability(
                process, path[step], item, prefix[step - 1] if step else None
            )
        for item in range(items):
            joint[item] += chance * click_probability(process, path[-1], item, prefix[-1])
    return joint / joint.sum()


def test_predictive_agrees_with_enumeration_of_interest_paths():
    random = np.random.default_rng(3)
    _, process = make_process(random, 25, 3, 4, 5, 4, follow=0.4, drift=0.2)
    prefix = [3, 0, int(process.successors[0, 1]), 7]
    items, lengths = np.array([9, 2, *prefix]), np.array([2, 4])
    followed = successor_probability(process, items, lengths)
    belief = filter_interests(
        items, lengths, process.pi, process.base, followed, process.follow, process.drift
    )
    probability = predictive(process, belief[2:], items[2:])
    for seen in range(1, 5):
        expected = enumerate_next(process, prefix[:seen])
        assert probability[seen - 1] == pytest.approx(expected, abs=1e-12)
    assert probability.sum(axis=1) == pytest.approx(np.ones(4))


def test_expected_metrics_agree_with_their_definition():
    random = np.random.default_rng(4)
    probability = random.dirichlet(np.ones(50), 3)
    ranking = random.permutation(50)[:20]
    for given in (None, ranking):
        values = expected_metrics(probability, given)
        for row, p in enumerate(probability):
            order = np.argsort(-p) if given is None else given
            for column, name in enumerate(METRICS):
                metric, cut = name.split("@")
                total = 0.0
                for rank, item in enumerate(order[: int(cut)], start=1):
                    gain = {"recall": 1, "ndcg": 1 / np.log2(rank + 1), "mrr": 1 / rank}[metric]
                    total += p[item] * gain
                assert values[row, column] == pytest.approx(total)


def test_events_are_well_formed_and_in_time_order(log):
    folder, manifest = log
    for day in range(3):
        first, *rest = (folder / f"log/events_day_{day}.csv").read_text().splitlines()
        assert first == "user_id,session_id,timestamp,item_id,category,brand,price"
        assert all(LINE.fullmatch(line) for line in rest)
        times = np.array([int(line.split(",")[2]) for line in rest])
        assert (np.diff(times) >= 0).all()
        assert len(rest) == manifest["files"][day]["rows"]
        assert (times >= FIRST_SECOND + day * 86_400).all()
        assert day == 2 or (times < FIRST_SECOND + (day + 1) * 86_400).all()
    frame = events(folder)
    # Sessions interleave: many events follow one of another session.
    switches = frame.select((pl.col("session_id") != pl.col("session_id").shift()).mean()).item()
    assert switches > 0.2


def test_sessions_have_one_user_no_repeats_and_lengths_2_to_20(log):
    frame = events(log[0])
    sessions = frame.group_by("session_id", maintain_order=True).agg(
        pl.col("user_id").n_unique().alias("users"),
        pl.len(),
        (pl.col("item_id") == pl.col("item_id").shift()).sum().alias("repeats"),
        pl.col("timestamp").diff().min().alias("gap"),
        pl.col("timestamp").diff().max().alias("widest"),
    )
    assert len(sessions) == 3000
    assert sessions["users"].max() == 1 and sessions["repeats"].sum() == 0
    assert sessions["len"].min() == 2 and sessions["len"].max() <= 20
    assert 5 < sessions["len"].mean() < 6.2
    assert sessions["gap"].min() >= 1 and sessions["widest"].max() <= 1200
    items = frame.unique(["item_id", "category", "brand", "price"])
    assert items["item_id"].is_unique().all()


def test_chunks_change_no_byte_and_no_score(log, tmp_path):
    folder, manifest = log
    again = generate_sessions(SETTINGS.model_copy(update={"chunk_sessions": 101}), tmp_path)
    for day in range(3):
        name = f"log/events_day_{day}.csv"
        assert (folder / name).read_bytes() == (tmp_path / name).read_bytes()
    one, other = (pl.read_parquet(at / "truth.parquet") for at in (folder, tmp_path))
    assert one.drop(METRICS).equals(other.drop(METRICS))
    assert one.select(METRICS).to_numpy() == pytest.approx(other.select(METRICS).to_numpy())
    for steps in ("every_step", "last_item"):
        assert again["best"][steps] == pytest.approx(manifest["best"][steps])


def test_truth_covers_every_step_and_the_manifest_is_its_mean(log):
    folder, manifest = log
    truth = pl.read_parquet(folder / "truth.parquet")
    assert len(truth) == manifest["events"] - 3000
    assert truth["last"].sum() == 3000
    first = 1_000_001 + manifest["tail"]["first_session"]
    tail = truth.filter(pl.col("session_id") >= first)
    assert tail["session_id"].n_unique() == 600
    for steps, part in (("every_step", tail), ("last_item", tail.filter("last"))):
        assert manifest["tail"]["steps"][steps] == len(part)
        for name in METRICS:
            assert part[name].mean() == pytest.approx(manifest["best"][steps][name], abs=1e-5)
        hits = (part["rank"] <= 20).mean()
        assert hits == pytest.approx(manifest["best_realized"][steps]["recall@20"])


def test_what_happens_is_what_was_expected(log):
    folder, manifest = log
    truth = pl.read_parquet(folder / "truth.parquet")
    p = truth["recall@20"].to_numpy()
    sigma = np.sqrt((p * (1 - p)).sum()) / len(p)
    assert abs((truth["rank"] <= 20).mean() - p.mean()) < 4 * sigma
    for steps in ("every_step", "last_item"):
        best, floor = manifest["best"][steps], manifest["popularity"][steps]
        assert all(best[name] > floor[name] > 0 for name in METRICS)


def test_another_seed_another_log(log, tmp_path):
    generate_sessions(SETTINGS.model_copy(update={"seed": 6}), tmp_path)
    assert not events(log[0]).equals(events(tmp_path))


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"items": 20, "related": 20}, "related must be below items"),
        ({"sessions": 1000, "users": 2, "days": 1}, "users must be at least 500"),
        ({"mean_length": 50}, "mean_length"),
    ],
)
def test_wrong_settings_are_explained(tree, message):
    with pytest.raises(UserError, match=message):
        validate(SessionsGenerateSettings, tree, "params.yaml")
