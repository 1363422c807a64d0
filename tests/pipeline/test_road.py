"""Both roads from end to end through the command line, small."""

import json

import polars as pl
import pytest

from core.kinds import GENERATED
from core.outputs import claimed
from pipeline.__main__ import main

SMALL = {
    "ranking": ["ranking.generate.rows=6000", "ranking.generate.days=3", "ranking.train.epochs=1"],
    "sessions": [
        "sessions.generate.sessions=600",
        "sessions.generate.items=120",
        "sessions.generate.users=200",
        "sessions.train.epochs=1",
        "sessions.xlnet.d_model=16",
    ],
}
HEADLINE = {"ranking": "auc", "sessions": "recall@20"}


@pytest.fixture(scope="module", params=["ranking", "sessions"])
def road(request, tmp_path_factory):
    """A finished run of one recipe in a folder of its own."""
    folder = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        settings = [word for item in SMALL[request.param] for word in ("--set", item)]
        for stage in ("generate", "ingest", "preprocess", "train", "evaluate", "export"):
            given = [] if stage == "export" else settings
            assert main([stage, request.param, *given]) == 0, stage
    return request.param, folder


def test_metrics_and_plots_are_there(road):
    recipe, folder = road
    metrics = json.loads((folder / "metrics" / f"{recipe}.json").read_text())
    name = HEADLINE[recipe]
    assert 0 < metrics[name] < metrics["best_possible"][name] <= 1
    assert 0 < metrics["share_of_best"][name] < 1
    for plot in (folder / "plots" / recipe).iterdir():
        assert json.loads(plot.read_text())


def test_the_bundle_predicts_on_the_raw_log(road, monkeypatch):
    recipe, folder = road
    monkeypatch.chdir(folder)
    logs = str(folder / "data" / recipe / "generated" / "log")
    if recipe == "ranking":
        assert main(["score", "--input", logs, "--output", "scores.parquet"]) == 0
        truth = pl.read_parquet("data/ranking/generated/truth.parquet")
        scores = pl.read_parquet("scores.parquet")
        assert len(scores) == len(truth) == 6000
        test = slice(4800, 6000)
        from training.metrics.binary import auc

        found = auc(truth["label"].to_numpy()[test], scores["probability"].to_numpy()[test])
        metrics = json.loads((folder / "metrics/ranking.json").read_text())
        assert found == pytest.approx(metrics["auc"], abs=1e-6)
        return
    assert main(["recommend", "--input", logs, "--output", "next.csv", "-k", "5"]) == 0
    events = pl.concat(
        [pl.read_csv(p) for p in sorted((folder / "data/sessions/generated/log").iterdir())]
    )
    found = pl.read_csv("next.csv")
    assert set(found["session_id"]) == set(events["session_id"])
    assert (found.group_by("session_id").len()["len"] == 5).all()
    assert set(found["item_id"]) <= set(events["item_id"])
    last = events.sort("timestamp", maintain_order=True).group_by("session_id").last()
    repeated = found.join(last.select("session_id", "item_id"), on=["session_id", "item_id"])
    assert repeated.is_empty()


def test_a_second_training_says_that_it_is_done(road, monkeypatch, capsys):
    recipe, folder = road
    monkeypatch.chdir(folder)
    before = (folder / "data" / recipe / "model" / "model.safetensors").read_bytes()
    settings = [word for item in SMALL[recipe] for word in ("--set", item)]
    assert main(["train", recipe, *settings]) == 0
    assert (folder / "data" / recipe / "model" / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["preprocess", "ranking"], "no manifest.json there.*ingest"),
        (["train", "ranking"], "no manifest.json there.*preprocess"),
        (["evaluate", "ranking"], "no manifest.json there.*preprocess"),
        (["ingest", "ranking", "--input", "nowhere/*.txt"], "nowhere"),
        (["score", "--input", "x", "--output", "y.csv"], "bundle"),
        (["report"], "no metrics yet"),
        (["ingest", "ranking", "--settings", "absent.yaml"], "absent.yaml"),
    ],
)
def test_a_stage_out_of_order_says_what_to_do(tmp_path, monkeypatch, capsys, command, message):
    import re

    monkeypatch.chdir(tmp_path)
    assert main(command) == 1
    assert re.search(message, " ".join(capsys.readouterr().err.split()))
    assert not list(tmp_path.rglob("*.parquet"))


def test_help_of_every_stage(capsys):
    for stage in ("generate", "ingest", "preprocess", "train", "evaluate", "export", "use"):
        with pytest.raises(SystemExit) as left:
            main([stage, "--help"])
        assert left.value.code == 0
        assert stage in capsys.readouterr().out


def test_the_truth_of_a_log_that_was_generated_anew_is_not_used(road, monkeypatch, capsys):
    recipe, folder = road
    monkeypatch.chdir(folder)
    log = folder / "data" / recipe / "generated"
    kept = log.rename(folder / "kept")
    other = ["--set", f"{recipe}.generate.seed=7"]
    settings = [word for item in SMALL[recipe] for word in ("--set", item)]
    assert main(["generate", recipe, *settings, *other]) == 0
    capsys.readouterr()
    assert main(["evaluate", recipe, *settings, "--metrics", "m.json", "--plots", "p"]) == 0
    assert "was generated anew" in capsys.readouterr().out
    assert "best_possible" not in json.loads((folder / "m.json").read_text())
    with claimed(log, GENERATED) as claim:
        claim.discard()
    kept.rename(log)
