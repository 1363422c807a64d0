"""The report shows what belongs together, and names what does not."""

import shutil

import numpy as np
import pytest

from core.artifacts import read_json, write_json
from core.errors import UserError
from pipeline.feature_folder import features_identity
from pipeline.params import Params
from pipeline.stages.evaluate import evaluate
from pipeline.stages.report import report
from pipeline.stages.train import train
from tests.pipeline.comparison import click_features, session_features

PLACES = {
    "metrics": "metrics/ranking.json",
    "plots": "plots/ranking",
    "features": "data/ranking/features",
    "model": "data/ranking/model",
    "bundle": "data/ranking/bundle",
    "data metrics": "metrics/ranking-data.json",
    "page": "plots/ranking-data",
}


def settings(seed):
    quick = {"epochs": 1, "batch_size": 64, "seed": seed}
    return Params({"ranking": {"model": "logistic_regression", "train": quick}})


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs: of other features, and of another model each."""
    made = []
    for name, seed in (("a", 1), ("b", 2)):
        folder = tmp_path_factory.mktemp(name)
        at = {place: folder / path for place, path in PLACES.items()}
        click_features(at["features"])
        write_json(at["features"] / "plan.json", {"run": name, "raw": name})
        train("ranking", at["features"], at["model"], settings(seed))
        evaluate("ranking", at["features"], at["model"], at["metrics"], at["plots"], settings(seed))
        at["bundle"].mkdir()
        shutil.copy(at["model"] / "model.json", at["bundle"])
        write_json(at["data metrics"], {"of_features": features_identity(at["features"])})
        at["page"].mkdir()
        (at["page"] / "index.html").touch()
        made.append(folder)
    return made


def put(runs, folder, chosen):
    """What is there, each of the run that is chosen for it (None: not there)."""
    for place, path in PLACES.items():
        number = chosen[place]
        if number is None:
            continue
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (runs[number] / path).is_dir() else shutil.copy
        copy(runs[number] / path, folder / path)


@pytest.mark.parametrize("seed", range(40))
def test_what_belongs_together_is_shown(runs, tmp_path, monkeypatch, capsys, seed):
    random = np.random.default_rng(seed)
    which = random.choice([0, 0, 0, 1, None], len(PLACES)).tolist()
    chosen = dict(zip(PLACES, which, strict=True))
    if chosen["metrics"] is None:
        chosen["metrics"] = 0
    put(runs, tmp_path, chosen)
    monkeypatch.chdir(tmp_path)
    mine = chosen["metrics"]
    foreign = any(chosen[place] not in (None, mine) for place in ("model", "features"))
    if foreign:
        with pytest.raises(UserError, match="none is of the models in data"):
            report(settings(1))
        said = capsys.readouterr().out
        assert "What was learned" not in said and "left out: metrics/ranking.json is of" in said
        return
    report(settings(1))
    said = capsys.readouterr().out
    (line,) = [line for line in said.splitlines() if line.startswith("ranking: ")]
    places = line.removeprefix("ranking: ").split(", ")
    notes = [line for line in said.splitlines() if line.startswith("note: ")]
    assert "What was learned" in said
    for place in ("plots", "model", "bundle"):
        assert (PLACES[place] in places) == (chosen[place] == mine), place
        named = any(f"{PLACES[place]} " in note for note in notes)
        assert named == (chosen[place] not in (None, mine)), place
    page = f"{PLACES['page']}/index.html"
    assert (page in places) == (chosen["page"] is not None and chosen["data metrics"] == mine)


def test_other_settings_than_those_of_now_are_named(runs, tmp_path, monkeypatch, capsys):
    put(runs, tmp_path, dict.fromkeys(PLACES, 0))
    monkeypatch.chdir(tmp_path)
    report(settings(5))
    assert "trained with another ranking.train.seed than" in capsys.readouterr().out
    report(Params({"ranking": {"model": "fm"}}))
    assert "the settings name the model fm now; logistic_reg" in capsys.readouterr().out


def test_the_result_comes_last(runs, tmp_path, monkeypatch, capsys):
    put(runs, tmp_path, dict.fromkeys(PLACES, 0))
    monkeypatch.chdir(tmp_path)
    report(settings(1))
    said = capsys.readouterr().out
    assert said.index("dvc plots show") < said.index("What was learned")
    assert "300 rows" in said and "600 rows" in said


def test_metrics_of_an_older_version_are_left_out(runs, tmp_path, monkeypatch):
    put(runs, tmp_path, dict.fromkeys(PLACES, 0))
    monkeypatch.chdir(tmp_path)
    metrics = read_json("metrics/ranking.json")
    del metrics["made_of"]
    write_json(tmp_path / "metrics" / "ranking.json", metrics)
    with pytest.raises(UserError, match="merlin-pipeline evaluate"):
        report(settings(1))


@pytest.mark.parametrize("ks", [[1, 5, 10], [7], [20, 50]])
def test_sessions_with_any_lengths_of_list(tmp_path, monkeypatch, capsys, ks):
    monkeypatch.chdir(tmp_path)
    given = Params({"sessions": {"model": "popular", "evaluate": {"ks": ks}}})
    features, model = tmp_path / "data/sessions/features", tmp_path / "data/sessions/model"
    features.mkdir(parents=True)
    session_features(features)
    train("sessions", features, model, given)
    metrics = evaluate(
        "sessions", features, model, "metrics/sessions.json", "plots/sessions", given
    )
    capsys.readouterr()
    report(given)
    said = capsys.readouterr().out
    first = max([k for k in ks if k <= 20], default=min(ks))
    assert f"recall@{first}" in said and f"{metrics[f'recall@{first}']:.4f}" in said
    assert "undefined" not in said
    assert read_json("plots/sessions/summary.json").keys() == {
        f"{name}@{first}" for name in ("recall", "ndcg", "mrr")
    }
    for by in ("session_length", "popularity"):
        points = read_json(f"plots/sessions/by_{by}.json")
        assert points and all({by, "k", "recall"} <= point.keys() for point in points)
    report(Params({"sessions": {"model": "popular", "evaluate": {"ks": [3]}}}))
    assert "evaluated with another sessions.evaluate.ks" in capsys.readouterr().out
