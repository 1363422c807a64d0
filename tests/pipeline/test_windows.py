"""Daily windows: what trains comes before what tests, and what is carried from day to day."""

import json
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from core.errors import UserError
from core.names import key_of
from pipeline.__main__ import main
from pipeline.params import Params
from pipeline.stages import windows as stage
from pipeline.stages.train import build, load_model, read_schema
from pipeline.windows import runs
from pipeline.windows.carry import Moved, _codes_of, carry_over, moved_codes
from pipeline.windows.days import newest, window_features, window_params
from tests.pipeline.test_preprocess_sessions import write_raw
from tests.training import session_reference as reference
from training.sessions.settings import SessionEvaluationSettings

DAY = 86_400_000
FIRST = 18_000 * DAY
SMALL = {
    "compare": {"entries": {"popular": None, "sasrec": None}, "seeds": [1, 2]},
    "sasrec": {"d_model": 8, "layers": 1, "heads": 1},
    "train": {"epochs": 1, "batch_size": 16},
}


def make_events(seed=0):
    """Sessions of days 0, 1 and 3, two of them on each day going on past midnight; each day brings
    items of its own."""
    rng = np.random.default_rng(seed)
    rows = []
    for day in (0, 1, 3):
        for number in range(60):
            at = FIRST + day * DAY + int(rng.integers(DAY - 3_600_000))
            if number < 2:
                at = FIRST + (day + 1) * DAY - 60_000
            for step in range(int(rng.integers(2, 8)) + 3 * (number < 2)):
                at += 30_000 * (step > 0)
                item = int(rng.zipf(1.3) % 12) + 5 * ((at - FIRST) // DAY)
                rows.append({"session_id": 1000 * day + number, "item_id": item, "timestamp": at})
    events = pl.DataFrame(rows).with_columns(pl.col("timestamp").cast(pl.Datetime("ms", "UTC")))
    return events.sample(fraction=1, shuffle=True, seed=seed)


def settings(**changes):
    return Params({"sessions": {**SMALL, **changes}})


def run(raw, folder, params):
    return stage.windows(raw, folder, folder / "metrics.json", folder / "plots", params)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The raw log, the folder of a run in both modes, and its report."""
    folder = tmp_path_factory.mktemp("windows")
    raw = write_raw(folder / "raw", make_events(), 3)
    return raw, folder / "out", run(raw, folder / "out", settings())


def lists_of(features, split):
    parts = sorted((features / split).glob("*.parquet"))
    return pl.concat(pl.read_parquet(part) for part in parts)


def known_items(features):
    (file,) = (features / "state").rglob("unique.item_id.parquet")
    return set(pl.read_parquet(file)["value"])


def test_every_day_with_sessions_tests(finished):
    _, _, report = finished
    assert report["days"] == {"1": 60, "3": 60}
    assert set(report["entries"]["popular"]) == {"scratch"}
    assert set(report["entries"]["sasrec"]) == {"scratch", "incremental"}


def test_means_are_over_days_and_seeds(finished):
    _, out, report = finished
    for mode, folder in (("scratch", "scratch/runs/{}"), ("incremental", "incremental/{}")):
        values = {}
        for seed in (1, 2):
            for day in (1, 3):
                # The first window has no model to go on from.
                place = folder if day == 3 else "scratch/runs/{}"
                run_folder = out / f"day-{day}" / place.format("sasrec") / f"seed-{seed}"
                found = json.loads((run_folder / "result.json").read_text())
                found = found.get("metrics", {"test": found})["test"]
                values[seed, day] = found["recall@20"]
        told = report["entries"]["sasrec"][mode]
        assert told["mean"]["recall@20"] == pytest.approx(np.mean(list(values.values())))
        by_seed = [np.mean([values[seed, day] for day in (1, 3)]) for seed in (1, 2)]
        assert told["std"]["recall@20"] == pytest.approx(np.std(by_seed, ddof=1))
        day_3 = [values[seed, 3] for seed in (1, 2)]
        assert told["by_day"]["3"]["recall@20"] == pytest.approx(np.mean(day_3))


def test_what_is_counted_is_counted_once_over_all_days(finished):
    _, out, _ = finished
    scratch = out / "day-3/scratch/runs/sasrec/seed-1/model.safetensors"
    further = out / "day-3/incremental/sasrec/seed-1/model/model.safetensors"
    counts = [load_file(path)["objective.counts"] for path in (scratch, further)]
    events = lists_of(out / "day-3/features", "train")["item_id"].explode()
    assert counts[0].sum() == len(events)
    assert torch.equal(*counts)


def test_popular_as_counted_by_hand(finished):
    _, out, report = finished
    for day in (1, 3):
        features = out / f"day-{day}" / "features"
        items = int(lists_of(features, "train")["item_id"].explode().max()) + 1
        train = lists_of(features, "train")["item_id"].to_list()
        counts = np.bincount([item for session in train for item in session], minlength=items)
        tested = lists_of(features, "test")["item_id"].to_list()
        steps = reference.outcomes(
            lambda prefix, counts=counts: counts.astype(float),
            tested,
            SessionEvaluationSettings(),
            items,
        )
        expected = reference.metrics(steps, (10, 20))
        found = report["entries"]["popular"]["scratch"]["by_day"][str(day)]
        assert {name: found[name] for name in expected} == pytest.approx(expected)


def test_nothing_that_trains_is_from_the_future(finished):
    raw, out, _ = finished
    events = pl.concat(pl.read_parquet(part) for part in sorted(raw.glob("*.parquet")))
    events = events.with_columns(pl.col("timestamp").dt.timestamp("ms"))
    for day in (1, 3):
        features = out / f"day-{day}" / "features"
        bounds = json.loads((features / "manifest.json").read_text())["bounds"]
        assert bounds["test_start"] == FIRST + day * DAY
        before = events.filter(pl.col("timestamp") < bounds["valid_start"])
        assert known_items(features) <= set(before["item_id"])
        trained = lists_of(features, "train")
        assert trained["item_id"].list.len().sum() <= len(before)


def test_changing_the_future_changes_nothing_that_trains(tmp_path):
    events = make_events()
    later = pl.col("timestamp").dt.timestamp("ms") >= FIRST + DAY
    changed = events.with_columns(pl.when(later).then(99).otherwise("item_id").alias("item_id"))
    params = window_params(settings(), 1)
    for name, log in (("a", events), ("b", changed)):
        window_features(write_raw(tmp_path / f"raw-{name}", log), tmp_path / name, params)
    for split in ("train", "valid"):
        assert lists_of(tmp_path / "a", split).equals(lists_of(tmp_path / "b", split))
    assert not lists_of(tmp_path / "a", "test").equals(lists_of(tmp_path / "b", "test"))


def test_without_validation_all_that_comes_before_the_day_trains(tmp_path):
    events = make_events()
    params = window_params(settings(preprocess={"split": {"valid": 0}}), 1)
    window_features(write_raw(tmp_path / "raw", events), tmp_path / "features", params)
    before = events.filter(pl.col("timestamp").dt.timestamp("ms") < FIRST + DAY)
    assert known_items(tmp_path / "features") == set(before["item_id"])


def test_a_second_run_trains_nothing_again(finished, monkeypatch):
    raw, out, report = finished

    def refuse(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(runs, "run", refuse)
    monkeypatch.setattr(runs, "train", refuse)
    assert run(raw, out, settings()) == report


def test_incremental_alone_is_the_same(finished):
    raw, out, report = finished
    alone = run(raw, out, settings(windows={"modes": ["incremental"]}))
    assert set(alone["entries"]["popular"]) == {"scratch"}
    expected = report["entries"]["sasrec"]["incremental"]
    assert alone["entries"]["sasrec"] == {"incremental": expected}


def test_the_newest_sessions_are_those_that_did_not_train_before(finished, tmp_path):
    _, out, _ = finished
    before, after = (out / f"day-{day}" / "features" for day in (1, 3))
    view = newest(after, before, tmp_path / "view")
    shown = set(lists_of(view, "train")["session_id"])
    old = set(lists_of(before, "train")["session_id"])
    assert shown == set(lists_of(after, "train")["session_id"]) - old
    assert newest(after, after, tmp_path / "none") is None


@pytest.mark.parametrize("seed", range(6))
def test_every_session_trains_once_however_long_its_pauses(tmp_path, seed):
    """One that opens just before it would validate has an event too few there, and trains later."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(300):
        at = FIRST + int(rng.integers(4 * DAY))
        for _ in range(int(rng.integers(2, 5))):
            rows.append({"session_id": number, "item_id": number % 7, "timestamp": at})
            rows[-1]["item_id"] += len(rows) % 2
            at += int(rng.integers(DAY // 8))
    events = pl.DataFrame(rows).with_columns(pl.col("timestamp").cast(pl.Datetime("ms", "UTC")))
    raw = write_raw(tmp_path / "raw", events, 2)
    made = []
    for day in (1, 2, 3):
        made.append(tmp_path / f"day-{day}")
        window_features(raw, made[-1], window_params(settings(), day))
    trained = [*lists_of(made[0], "train")["session_id"]]
    for number, (before, after) in enumerate(pairwise(made)):
        view = newest(after, before, tmp_path / f"view-{number}")
        trained += lists_of(view, "train")["session_id"].to_list()
    assert sorted(trained) == sorted(lists_of(made[-1], "train")["session_id"])


def test_rows_are_carried_over_by_their_values(finished):
    _, out, _ = finished
    before, after = (out / f"day-{day}" / "features" for day in (1, 3))
    params = window_params(settings(), 3)
    _, model_settings = Params({"sessions": {**params.tree["sessions"], "model": "sasrec"}}).model(
        "sessions"
    )
    folder = out / "day-1" / "scratch" / "runs" / "sasrec" / "seed-1"
    old, _ = load_model(folder, read_schema(before), before)
    new = build("sessions", "sasrec", read_schema(after), model_settings, 7)
    fresh = {name: weight.detach().clone() for name, weight in new.named_parameters()}
    carry_over(old, new, moved_codes(before, after), "item_id")

    def values(features):
        (file,) = (features / "state").rglob("unique.item_id.parquet")
        return pl.read_parquet(file)["value"].to_list()

    earlier, later = values(before), values(after)
    assert earlier != later[: len(earlier)] and set(later) - set(earlier)
    moved = 0
    given = dict(old.named_parameters())
    for name, weight in new.named_parameters():
        if not name.endswith("item_id.weight"):
            assert torch.equal(weight, given[name]), name
            continue
        moved += 1
        assert torch.equal(weight[:3], given[name][:3])
        for code, value in enumerate(later, 3):
            if value in earlier:
                assert torch.equal(weight[code], given[name][3 + earlier.index(value)])
            else:
                assert torch.equal(weight[code], fresh[name][code])
    assert moved


def test_a_log_of_one_day_is_refused_before_anything_is_made(tmp_path, capsys):
    events = make_events().filter(pl.col("session_id") < 1000)
    raw = write_raw(tmp_path / "raw", events)
    command = ["windows", "sessions", "--input", str(raw), "--output", str(tmp_path / "out")]
    assert main([*command, "--set", "sessions.windows.first_test_day=1"]) == 1
    message = " ".join(capsys.readouterr().err.split())
    assert "first_test_day 1: the log has sessions on day 0 only" in message
    assert not (tmp_path / "out").exists()


def test_leave_one_out_is_no_protocol_for_days(tmp_path):
    params = settings(evaluate={"protocol": "leave_one_out"})
    with pytest.raises(UserError, match="daily windows cut by day"):
        run(write_raw(tmp_path / "raw", make_events()), tmp_path / "out", params)


def passing_over(folder, events, capsys, **changes):
    """What a run over ``events`` with the model popular alone reports, and what it says."""
    raw = write_raw(folder / "raw", events)
    compare = {"entries": {"popular": None}, "seeds": [1]}
    report = run(raw, folder / "out", settings(compare=compare, **changes))
    table = (folder / "out/plots/tables.md").read_text()
    return report, " ".join(capsys.readouterr().out.split()), table


FIRST_EVENT = pl.col("timestamp") == pl.col("timestamp").min().over("session_id")


def on_day(day):
    start = pl.col("timestamp").min().over("session_id").dt.timestamp("ms")
    return (start - FIRST) // DAY == day


def test_a_day_whose_sessions_have_one_event_each_is_passed_over(tmp_path, capsys):
    events = make_events()
    # More than the sessions of that day have to validate the next window.
    split = {"split": {"valid": 0.6}}
    log = events.filter(~on_day(1) | FIRST_EVENT)
    report, said, _ = passing_over(tmp_path, log, capsys, preprocess=split)
    assert report["days"] == {"3": 60}
    assert "day 1 passed over: nothing to test" in said


def test_a_day_that_nothing_validates_for_is_passed_over(tmp_path, capsys):
    events = make_events()
    log = events.filter(~on_day(1) | FIRST_EVENT)
    with pytest.raises(UserError, match="no day leaves sessions to train on"):
        passing_over(tmp_path, log, capsys)
    assert "day 3 passed over: the valid split has no sessions" in " ".join(
        capsys.readouterr().out.split()
    )


@pytest.mark.parametrize(
    ("kept", "told"), [(1, "leaves nothing to train"), (60, "the train split has no")]
)
def test_a_day_that_nothing_trains_for_is_passed_over(tmp_path, capsys, kept, told):
    """Of the first day's sessions one is left, which validates, or all, of one event each."""
    events = make_events()
    left = FIRST_EVENT & (pl.col("session_id") % 1000 >= 60 - kept)
    report, said, _ = passing_over(tmp_path, events.filter(~on_day(0) | left), capsys)
    assert report["days"] == {"3": 60}
    assert "day 1 passed over" in said and told in said


def test_a_day_after_a_missing_one_is_passed_over_where_one_day_trains(tmp_path, capsys):
    split = {"split": {"train_days": 1}}
    report, said, _ = passing_over(tmp_path, make_events(), capsys, preprocess=split)
    assert report["days"] == {"1": 60}
    assert "day 3 passed over: no sessions on the 1 day before it" in said


def test_a_log_without_any_day_to_test_is_refused(tmp_path, capsys):
    with pytest.raises(UserError, match="no day leaves sessions to train on"):
        passing_over(tmp_path, make_events().filter(FIRST_EVENT), capsys)


def test_the_table_names_the_days_that_count(tmp_path, capsys):
    new = pl.when(on_day(3)).then(1000 + pl.col("timestamp").rank("dense")).otherwise("item_id")
    events = make_events().with_columns(new.cast(pl.Int64).alias("item_id"))
    report, _, table = passing_over(tmp_path, events, capsys)
    assert set(report["days"]) == {"1", "3"}
    found = report["entries"]["popular"]["scratch"]
    assert found["by_day"]["3"]["recall@20"] is None
    assert found["mean"]["recall@20"] == found["by_day"]["1"]["recall@20"]
    assert table.startswith("Mean over day 1 and 1 seed; nothing could be asked for on day 3")


def test_a_table_is_of_the_column_that_it_is_named_by():
    """Whatever else the columns are called: names of layers, or parts of each other's names."""
    names = ["item_id", "weight", "inputs", "e", "product.type", "items"]
    moved = {name: Moved((5, 5), torch.arange(5)) for name in names}
    for name in names:
        path = f"items.features.{key_of(name)}.weight"
        assert _codes_of(path, 2, (5, 5), moved, "item_id") is moved[name].old
    for path in ("encoder.weight_ih_l0", "body.project.weight", "items.inputs.0.weight"):
        assert _codes_of(path, 2, (5, 5), moved, "item_id") is None
