"""Every session model that counts, from a log through the command line to recommendations."""

import json

import polars as pl
import pytest

from pipeline.__main__ import main
from tests.training.counted import COUNTING

SETTINGS = ["sessions.generate.sessions=500", "sessions.generate.items=60"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("counting")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        settings = [word for item in SETTINGS for word in ("--set", item)]
        for stage in ("generate", "ingest", "preprocess"):
            assert main([stage, "sessions", *settings]) == 0
    return folder


@pytest.mark.parametrize("name", COUNTING)
def test_trains_evaluates_exports_and_recommends(prepared, name, monkeypatch, tmp_path):
    monkeypatch.chdir(prepared)
    at = {stage: str(tmp_path / stage) for stage in ("model", "bundle", "plots")}
    chosen = ["--set", f"sessions.model={name}"]
    assert main(["train", "sessions", "--output", at["model"], *chosen]) == 0
    record = json.loads((tmp_path / "model" / "model.json").read_text())
    assert record["learned"]["valid"]["recall@20"] > 0.2
    judged = ["--model", at["model"], "--metrics", str(tmp_path / "metrics.json")]
    assert main(["evaluate", "sessions", *judged, "--plots", at["plots"], *chosen]) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert 0.2 < metrics["recall@20"] < metrics["best_possible"]["recall@20"]

    assert main(["export", "sessions", "--model", at["model"], "--output", at["bundle"]]) == 0
    logs, output = "data/sessions/generated/log", str(tmp_path / "next.parquet")
    given = ["--input", logs, "--output", output, "-k", "7"]
    assert main(["recommend", "--bundle", at["bundle"], *given]) == 0
    found = pl.read_parquet(output)
    events = pl.concat([pl.read_csv(p) for p in sorted((prepared / logs).iterdir())])
    assert set(found["session_id"]) == set(events["session_id"])
    assert (found.group_by("session_id").len()["len"] == 7).all()
    falling = found.sort("session_id", "score", descending=[False, True])
    assert (found["rank"] == falling["rank"]).all()
    assert found.select("session_id", "item_id").is_unique().all()
