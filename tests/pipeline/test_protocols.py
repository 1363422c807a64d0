"""Leave-one-out by time from a raw log to metrics, and protocols that do not fit the split."""

import json

import numpy as np
import polars as pl
import pytest

from core.errors import UserError
from pipeline.__main__ import main
from pipeline.params import Params
from pipeline.protocols import session_evaluation
from tests.training import session_reference as reference
from training.sessions.settings import SessionEvaluationSettings

LEAVE_ONE_OUT = [
    "sessions.preprocess.split.kind=leave_one_out",
    "sessions.evaluate.protocol=leave_one_out",
]


def words(*settings):
    return [word for setting in settings for word in ("--set", setting)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Histories of users as a CSV with equal times and items rated once, ingested."""
    folder = tmp_path_factory.mktemp("protocols")
    rng = np.random.default_rng(0)
    lines = ["userId,movieId,rating,timestamp"]
    for user in range(1, 41):
        movies = rng.permutation(30)[: rng.integers(2, 14)]
        if user % 9 == 0:
            movies = [*movies, 100 + user]  # nobody else rates it, and it comes last
        times = np.sort(rng.integers(0, 9, len(movies)))
        lines += [f"{user},{m},4.0,{10**9 + t}" for m, t in zip(movies, times, strict=True)]
    (folder / "ratings.csv").write_text("\n".join(lines) + "\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        columns = {"session_id": "userId", "item_id": "movieId", "timestamp": "timestamp"}
        source = [f"sessions.source.columns.{name}={theirs}" for name, theirs in columns.items()]
        assert main(["ingest", "sessions", "--input", "ratings.csv", *words(*source)]) == 0
        assert main(["preprocess", "sessions", *words(*LEAVE_ONE_OUT)]) == 0
    return folder


def histories(folder):
    rows = pl.read_csv(folder / "ratings.csv").with_row_index("row").sort("timestamp", "row")
    return {user: group["movieId"].to_list() for (user,), group in rows.group_by("userId")}


def test_leave_one_out_as_computed_by_hand(folder, monkeypatch):
    monkeypatch.chdir(folder)
    settings = words("sessions.model=popular", *LEAVE_ONE_OUT, "sessions.evaluate.exclude_seen=1")
    assert main(["train", "sessions", *settings]) == 0
    assert main(["evaluate", "sessions", *settings]) == 0
    found = json.loads((folder / "metrics" / "sessions.json").read_text())

    users = list(histories(folder).values())
    trained = [movies[:-2] if len(movies) >= 3 else movies for movies in users]
    movies = [movie for history in trained if len(history) > 1 for movie in history]
    names = sorted(set(movies), key=lambda movie: (-movies.count(movie), movie))
    codes = {movie: 3 + code for code, movie in enumerate(names)}
    counts = np.array([0, 0, 0, *(movies.count(movie) for movie in names)], float)
    tested = [[codes.get(movie, 2) for movie in history] for history in users if len(history) >= 3]
    rules = SessionEvaluationSettings(protocol="leave_one_out", exclude_seen=True)
    steps = reference.outcomes(lambda prefix: counts, tested, rules, len(counts))
    unseen = sum(history[-1] == 2 for history in tested)
    assert unseen and len(steps) == len(tested) - unseen
    expected = reference.metrics(steps, (10, 20)) | reference.of_lists(steps, (10, 20), counts)
    expected |= {"predictions": len(steps), "sessions": len(steps)}
    # Of one next item hit is recall and map is mrr.
    expected = {k: v for k, v in expected.items() if not k.startswith(("hit@", "map@"))}
    assert {name: found[name] for name in expected} == pytest.approx(expected)

    validated = [session[:-1] for session in tested]
    steps = reference.outcomes(lambda prefix: counts, validated, rules, len(counts))
    record = json.loads((folder / "data" / "sessions" / "model" / "model.json").read_text())
    expected = reference.metrics(steps, (10, 20))
    assert record["learned"]["valid"] == pytest.approx(
        {name: expected[name] for name in record["learned"]["valid"]}
    )


@pytest.mark.parametrize("protocol", ["per_step", "last_item"])
def test_events_that_trained_are_not_asked_for(folder, monkeypatch, capsys, protocol):
    monkeypatch.chdir(folder)
    settings = words("sessions.model=popular", f"sessions.evaluate.protocol={protocol}")
    for stage in ("train", "evaluate"):
        assert main([stage, "sessions", *settings]) == 1
        message = " ".join(capsys.readouterr().err.split())
        assert f"protocol: {protocol} does not fit data/sessions/features" in message
        assert "Set sessions.evaluate.protocol to leave_one_out" in message
    assert (folder / "data" / "sessions" / "model" / "model.json").is_file()


def test_plots_of_the_breakdowns(folder):
    for by in ("session_length", "popularity"):
        rows = json.loads((folder / "plots" / "sessions" / f"by_{by}.json").read_text())
        assert rows and all({by, "recall@20", "predictions"} <= set(row) for row in rows)


def test_leave_one_out_needs_features_that_are_split_so(tmp_path):
    (tmp_path / "manifest.json").write_text('{"bounds": {"valid_start": 1, "test_start": 2}}')
    params = Params({"sessions": {"evaluate": {"protocol": "leave_one_out"}}})
    with pytest.raises(UserError, match="needs features that were split so"):
        session_evaluation(params, tmp_path)
