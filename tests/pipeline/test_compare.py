"""The comparison: what it trains, what it does not train again, and what its figures are."""

import csv
import json

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score

from core.errors import UserError
from core.merlin import schema_from_json
from pipeline.__main__ import main
from pipeline.compare.summary import _best_on_validation
from pipeline.evaluation.baselines import click_baselines
from pipeline.params import Params
from pipeline.stages import compare as stage
from pipeline.stages.train import load_model, read_schema, train
from tests.pipeline.comparison import CLICK_ROWS, CLICKS, click_features
from training.batches import Batches
from training.ranking.low_rank import mlp_layers, truncated_svd

THIN = {"low_rank": {"fraction": 0.6}}
TUNED = {**THIN, "train": {"epochs": 1}}


def params(entries, seeds=(1, 2), **compare):
    return Params(
        {"ranking": {**CLICKS, "compare": {"entries": entries, "seeds": list(seeds), **compare}}}
    )


def compared(features, folder, given, **changes):
    return stage.compare("ranking", features, folder / "out", given, **changes)


def summary(features, folder, given):
    places = (folder / "out", folder / "metrics.json", folder / "plots")
    return stage.summary("ranking", features, *places, given)


def probabilities(features, run, split):
    """Labels and predictions of a split, from the weights that the run left."""
    schema = schema_from_json((features / "schema.json").read_text())
    model, _ = load_model(run, schema, features)
    batches = list(Batches(features / split, schema, 50, shuffle=False))
    logits = np.concatenate([model.predict(batch).detach().double().numpy() for batch in batches])
    return np.concatenate([batch[1].numpy() for batch in batches]), 1 / (1 + np.exp(-logits))


def stamp(file):
    """Another one once the file is written anew."""
    return file.stat().st_ino, file.stat().st_mtime_ns


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    return click_features(tmp_path_factory.mktemp("features"))


ENTRIES = {
    "dlrm": {},
    "dlrm-sgd": {"model": "dlrm", "train": {"optimizer": "sgd", "learning_rate": 0.1}},
    "thin": {"model": "dlrm", "after": THIN},
    "tuned": {"model": "dlrm", "after": TUNED},
}


@pytest.fixture(scope="module")
def finished(features, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    compared(features, folder, params(ENTRIES))
    return folder, summary(features, folder, params(ENTRIES))


def test_means_and_deviations_are_those_of_the_weights_on_disk(features, finished):
    folder, found = finished
    assert list(found["entries"]) == list(ENTRIES)
    for entry, about in found["entries"].items():
        for split in CLICK_ROWS:
            aucs, losses = [], []
            for seed in (1, 2):
                run = folder / "out" / "runs" / entry / f"seed-{seed}"
                labels, predicted = probabilities(features, run, split)
                aucs.append(roc_auc_score(labels, predicted))
                losses.append(log_loss(labels, predicted))
            metrics = about["metrics"][split]
            for name, values in (("auc", aucs), ("logloss", losses)):
                assert metrics[name]["mean"] == pytest.approx(np.mean(values), abs=1e-6)
                assert metrics[name]["std"] == pytest.approx(np.std(values, ddof=1), abs=1e-6)
    assert json.loads((folder / "metrics.json").read_text()) == found


def test_baselines_and_remarks_are_with_the_tables(features, finished):
    folder, summary = finished
    theirs = click_baselines(features, read_schema(features), "test", "label")
    assert summary["baselines"] == theirs and summary["tested"] == "300 rows"
    shown = (folder / "plots" / "tables.md").read_text()
    auc = f"{theirs['logistic_regression']['auc']:.4f}".lstrip("0")
    assert f"| (logistic regression) |  | {auc} |" in shown
    page = (folder / "plots" / "index.html").read_text()
    for name, entry in summary["entries"].items():
        auc = entry["metrics"]["test"]["auc"]["mean"]
        lost = auc < theirs["logistic_regression"]["auc"] - 5e-4
        said = [r for r in summary["remarks"] if r.startswith(f"{name} scores below") and "auc" in r
                and "'logistic regression'" in r]  # fmt: skip
        assert bool(said) == lost
        runs = folder / "out" / "runs" / name
        results = [json.loads((runs / f"seed-{n}" / "result.json").read_text()) for n in (1, 2)]
        improving = any(result["learned"]["still_improving"] for result in results)
        assert improving == any(f"{name} was still improving" in r for r in summary["remarks"])
    assert all(remark.replace("'", "&#x27;") in page for remark in summary["remarks"])
    assert "normalized_entropy (lower is better)" in shown and "<li>auc (higher" in page


def test_validation_chooses_without_the_test_split(finished):
    _, found = finished
    losses = {
        name: entry["metrics"]["valid"]["logloss"]["mean"]
        for name, entry in found["entries"].items()
    }
    assert found["best_on_validation"]["entry"] == min(losses, key=losses.get)


@pytest.mark.parametrize("seed", range(40))
def test_a_lead_within_chance_is_a_doubt(seed):
    """Of metrics drawn at random: no doubt is left out, none is made up."""
    rng = np.random.default_rng(seed)
    seeds, width = int(rng.integers(1, 5)), float(rng.choice([1e-4, 0.02]))
    drawn = {
        name: rng.normal(center, width, seeds)
        for name, center in zip("abcd", rng.uniform(0.6, 0.7, 4), strict=True)
    }
    entries = {}
    for name, losses in drawn.items():
        figure = {"mean": losses.mean(), "std": losses.std(ddof=1) if seeds > 1 else None}
        entries[name] = {"metrics": {"valid": {"logloss": figure}}}
    summary = {"recipe": "ranking", "entries": entries, "headlines": ["logloss"]}
    best = _best_on_validation(summary)
    lowest = min(drawn, key=lambda name: drawn[name].mean())
    assert best["entry"] == lowest
    if seeds == 1:
        assert "one seed only of a, b, c, d" in best["doubt"]
        return
    near = [
        name
        for name, losses in drawn.items()
        if name != lowest
        and losses.mean() - drawn[lowest].mean()
        <= max(losses.std(ddof=1), drawn[lowest].std(ddof=1))
    ]
    assert (best["doubt"] or "").startswith(f"its lead over {', '.join(near)} is") == bool(near)
    assert bool(best["doubt"]) == bool(near)


def test_a_run_is_what_training_alone_gives(features, finished, tmp_path):
    folder, _ = finished
    own = {"train": {"optimizer": "sgd", "learning_rate": 0.1, "seed": 2}}
    tree = {"ranking": {**CLICKS, "dlrm": {**CLICKS["dlrm"], **own}}}
    train("ranking", features, tmp_path, Params(tree))
    run = folder / "out" / "runs" / "dlrm-sgd" / "seed-2"
    for name in ("model.safetensors", "history.csv", "model.json"):
        assert (run / name).read_bytes() == (tmp_path / name).read_bytes()


def test_low_rank_after_training_is_the_truncated_svd_of_the_same_entry_without_it(
    features, finished
):
    folder, found = finished
    schema = schema_from_json((features / "schema.json").read_text())
    runs = folder / "out" / "runs"
    whole, _ = load_model(runs / "dlrm" / "seed-1", schema)
    thin, record = load_model(runs / "thin" / "seed-1", schema)
    ranks = record["settings"]["low_rank"]["ranks"]
    assert any(ranks)
    for rank, (_, layer), (_, parts) in zip(
        ranks, mlp_layers(whole), factors(thin, len(ranks)), strict=True
    ):
        weight = layer.weight.detach()
        if rank:
            left, right = truncated_svd(weight, rank)
            np.testing.assert_allclose(
                (parts[1].weight @ parts[0].weight).detach(), left @ right, atol=1e-5
            )
        else:
            assert np.array_equal(parts.weight.detach(), weight)
    costs = {name: entry["cost"] for name, entry in found["entries"].items()}
    saved = sum(
        layer.weight.numel() - rank * sum(layer.weight.shape)
        for rank, (_, layer) in zip(ranks, mlp_layers(whole), strict=True)
        if rank
    )
    parameters = {name: cost["parameters"]["mean"] for name, cost in costs.items()}
    assert parameters["dlrm"] - parameters["thin"] == saved > 0
    assert costs["thin"]["samples"]["mean"] == costs["dlrm"]["samples"]["mean"] == 2 * 600
    assert costs["tuned"]["samples"]["mean"] == 3 * 600
    assert not (runs / "thin" / "seed-1" / "whole").exists()


def factors(model, count):
    """The layers of each MLP, whole or as two, in their order."""
    from core.merlin import torch_models

    found = [
        (holder, holder.to_wrap)
        for block in model.modules()
        if isinstance(block, torch_models().MLPBlock)
        for holder in block.values
        if list(getattr(holder, "to_wrap", torch.nn.Identity()).parameters())
    ]
    assert len(found) == count
    return found


def test_low_rank_without_its_whole_entry_trains_it_first(features, finished, tmp_path):
    folder, _ = finished
    compared(features, tmp_path, params({"tuned": ENTRIES["tuned"]}, [2]))
    alone, beside = (at / "out" / "runs" / "tuned" / "seed-2" for at in (tmp_path, folder))
    assert (alone / "model.safetensors").read_bytes() == (beside / "model.safetensors").read_bytes()
    assert (alone / "whole" / "model.json").is_file()
    one, two = (json.loads((at / "result.json").read_text()) for at in (alone, beside))
    assert one["curve"] == two["curve"] and one["metrics"] == two["metrics"]
    samples = [point["samples"] for point in one["curve"]]
    assert samples == sorted(samples) and samples[-1] == 1800


def test_finished_runs_are_left_and_changed_ones_done_again(features, tmp_path, capsys):
    compared(features, tmp_path, params(["fm", "dlrm"], [1]))
    runs = tmp_path / "out" / "runs"
    before = {name: stamp(runs / name / "seed-1" / "result.json") for name in ("fm", "dlrm")}
    compared(features, tmp_path, params(["fm", "dlrm"], [1]))
    assert "2 of 2 runs are finished already" in capsys.readouterr().out
    changed = {"fm": {"settings": {"embedding_dim": 3}}, "dlrm": {}}
    compared(features, tmp_path, params(changed, [1]))
    shown = capsys.readouterr().out
    assert "1 of 2 runs are finished already" in shown
    assert "of other settings, features or code" in shown
    after = {name: stamp(runs / name / "seed-1" / "result.json") for name in ("fm", "dlrm")}
    assert after["dlrm"] == before["dlrm"] and after["fm"] != before["fm"]
    assert json.loads((runs / "fm/seed-1/model.json").read_text())["settings"]["embedding_dim"] == 3


def test_a_run_that_was_stopped_goes_on(features, tmp_path, monkeypatch, capsys):
    compared(features, tmp_path / "calm", params(["fm", "dlrm"], [1]))

    def fails(*_, **__):
        raise OSError("the disk is gone")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="the disk is gone"):
        patch.setattr("pipeline.compare.run.evaluate", fails)
        compared(features, tmp_path, params(["fm", "dlrm"], [1]))
    capsys.readouterr()
    compared(features, tmp_path, params(["fm", "dlrm"], [1]))
    assert capsys.readouterr().out.count("already trained with these settings") == 1
    for entry in ("fm", "dlrm"):
        run = f"out/runs/{entry}/seed-1"
        one, two = (
            json.loads((at / run / "result.json").read_text())
            for at in (tmp_path, tmp_path / "calm")
        )
        assert one["metrics"] == two["metrics"] and one["curve"] == two["curve"]
        assert one["cost"]["seconds"] > 0
        assert not (tmp_path / run / "checkpoints").exists()


def test_the_test_split_is_left_alone_until_it_is_asked_for(features, tmp_path):
    choosing = params(["fm"], [1], splits=["train", "valid"])
    compared(features, tmp_path, choosing)
    run = tmp_path / "out" / "runs" / "fm" / "seed-1"
    assert not (run / "test").exists()
    found = summary(features, tmp_path, choosing)
    assert found["split"] == "valid" and set(found["entries"]["fm"]["metrics"]) == {
        "train",
        "valid",
    }
    weights = stamp(run / "model.safetensors")
    compared(features, tmp_path, params(["fm"], [1]))
    assert stamp(run / "model.safetensors") == weights
    found = summary(features, tmp_path, params(["fm"], [1]))
    labels, predicted = probabilities(features, run, "test")
    auc = found["entries"]["fm"]["metrics"]["test"]["auc"]["mean"]
    assert auc == pytest.approx(roc_auc_score(labels, predicted), abs=1e-6)


def test_a_run_that_diverges_is_named_and_the_others_are_done(features, tmp_path, capsys):
    wild = {"model": "dlrm", "train": {"optimizer": "sgd", "learning_rate": 1e30}}
    given = params({"wild": wild, "fm": {}}, [1])
    (tmp_path / "params.yaml").write_text(json.dumps(given.tree))
    command = ["compare", "ranking", "--features", str(features), "--output", str(tmp_path / "out")]
    places = ["--metrics", str(tmp_path / "m.json"), "--plots", str(tmp_path / "p")]
    assert main([*command, *places, "--settings", str(tmp_path / "params.yaml")]) == 1
    assert "wild, seed 1: " in capsys.readouterr().err
    assert list(json.loads((tmp_path / "m.json").read_text())["entries"]) == ["fm"]


def test_a_folder_of_something_else_is_not_touched(features, tmp_path):
    mine = tmp_path / "out" / "runs" / "fm" / "seed-1" / "notes.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(UserError, match=r"holds runs/fm/seed-1/notes\.txt, which no stage wrote"):
        compared(features, tmp_path, params(["fm"], [1]))
    assert mine.read_text() == "mine"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (params(["fm", "afn"]), "entries: afn: unknown model 'afn'; known: dlrm"),
        (params({"a": {"model": "xlnet"}}), "entries: a: unknown model 'xlnet'"),
        (params({"a/b": {"model": "fm"}}), "'a/b' names folders"),
        (params(["fm", "fm"]), "fm stands there twice"),
        (params(["fm"], []), "seeds: .*at least 1 item"),
        (params(["fm"], [3, 3]), "seeds: expected each one once"),
        (params(["fm"], splits=["trian"]), "splits.*'train', 'valid' or 'test'"),
        (params({"a": {"model": "fm", "train": {"seed": 3}}}), "compare.seeds"),
        (params(["fm"], metrics=["auc", "aucc"]), "compare.metrics: aucc is none.*fm: auc, log"),
        (
            params({"fm": {}, "a": {"model": "fm", "train": {"epoch": 3}}}),
            r"compare\.entries\.a: ranking\.fm\.train: unknown setting 'epoch'",
        ),
        (
            params({"fm": {}, "a": {"model": "dlrm", "settings": {"top": 3}}}),
            r"compare\.entries\.a: ranking\.dlrm: unknown setting 'top'",
        ),
        (
            params({"a": {"model": "dlrm", "after": {**THIN, "train": {"epochs": 0}}}}),
            r"compare\.entries\.a: ranking\.dlrm\.train: epochs",
        ),
        (params({"a": {"model": "dlrm", "after": {"low_rank": {}}}}), "give one of fraction"),
        (params({"fm": {}, "mmoe": {}}), r"compare\.entries\.mmoe: .*needs two labels"),
        (
            params({"fm": {}, "a": {"model": "fm", "after": THIN}}),
            r"compare\.entries\.a: low rank: FMSettings has no MLP",
        ),
        (
            params({"dlrm": {}, "a": {"model": "dlrm", "after": {"low_rank": {"ranks": [9, 9]}}}}),
            r"compare\.entries\.a: low_rank\.ranks: 2 ranks for 3 MLP layers",
        ),
    ],
)
def test_what_is_wrong_is_named_before_anything_is_trained(features, tmp_path, given, message):
    with pytest.raises(UserError, match=message):
        compared(features, tmp_path, given)
    assert not (tmp_path / "out").exists()


def test_without_entries_every_model_that_suits_the_features_is_compared(
    features, tmp_path, capsys
):
    stage.plan("ranking", features, tmp_path, params([]))
    planned = {file.stem for file in (tmp_path / "plan").glob("*.json")}
    from training.ranking import MODELS, SEVERAL_LABELS

    assert planned == set(MODELS) - set(SEVERAL_LABELS)
    assert capsys.readouterr().out.count("left out: ") == len(SEVERAL_LABELS)


def test_a_plan_changes_only_with_the_settings_of_its_entry(features, tmp_path):
    def plans(given):
        stage.plan("ranking", features, tmp_path, given)
        return {file.name: file.read_bytes() for file in (tmp_path / "plan").glob("*.json")}

    before = plans(params({"fm": {}, "thin": ENTRIES["thin"]}))
    same = plans(params({"fm": {}, "thin": ENTRIES["thin"]}, [7], metrics=["auc"]))
    assert before == same
    changed = plans(params({"fm": {"train": {"epochs": 3}}, "thin": ENTRIES["thin"]}))
    assert changed["thin.json"] == before["thin.json"] and changed["fm.json"] != before["fm.json"]
    tuned = plans(params({"fm": {}, "thin": {**ENTRIES["thin"], "after": TUNED}}))
    assert tuned["thin.json"] != before["thin.json"] and tuned["fm.json"] == before["fm.json"]


def test_the_table_and_the_csv_say_what_the_json_says(finished):
    folder, found = finished
    with open(folder / "plots" / "table.csv", newline="") as file:
        lines = {line["entry"]: line for line in csv.DictReader(file)}
    text = (folder / "plots" / "tables.md").read_text()
    for name, entry in found["entries"].items():
        auc = entry["metrics"]["test"]["auc"]
        assert float(lines[name]["test_auc"]) == pytest.approx(auc["mean"], rel=1e-6)
        assert float(lines[name]["test_auc_std"]) == pytest.approx(auc["std"], rel=1e-6)
        assert float(lines[name]["parameters"]) == entry["cost"]["parameters"]["mean"]
        cells = f"| {name} | 2 | {auc['mean']:.4f} ± {auc['std']:.4f} |".replace(" 0.", " .")
        assert cells in text
    page = (folder / "plots" / "index.html").read_text()
    assert page.count("<svg") >= 5 and "src=" not in page and 'href="http' not in page


def test_curves_are_means_over_seeds_at_samples_seen(finished):
    folder, _ = finished
    rows = json.loads((folder / "plots" / "curves.json").read_text())
    mine = [row for row in rows if row["entry"] == "dlrm"]
    # 600 rows in batches of 64: an epoch is 10 steps, validated every 5, the last batch short.
    assert [row["samples"] for row in mine] == [320, 600, 920, 1200]
    histories = []
    for seed in (1, 2):
        with open(folder / f"out/runs/dlrm/seed-{seed}/history.csv", newline="") as file:
            histories.append([float(row["valid_logloss"]) for row in csv.DictReader(file)])
    expected = np.mean(histories, axis=0)
    assert [row["valid_logloss"] for row in mine] == pytest.approx(list(expected))


def test_the_command_line_does_one_run_and_the_summary_apart(
    features, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(json.dumps(params(["fm", "logistic_regression"]).tree))
    common = ["compare", "ranking", "--features", str(features), "--output", "out"]
    assert main([*common, "--summary"]) == 1
    assert "no run of these settings is finished" in capsys.readouterr().err
    assert main([*common, "--only", "fm", "--seed", "2"]) == 0
    assert [str(file) for file in (tmp_path / "out").rglob("result.json")] == [
        str(tmp_path / "out/runs/fm/seed-2/result.json")
    ]
    assert not (tmp_path / "metrics").exists()
    assert main([*common, "--summary"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "left out: fm seed 1, logistic_regression seed 1, logistic_regression seed 2" in shown
    found = json.loads((tmp_path / "metrics/ranking-compare.json").read_text())
    assert found["entries"]["fm"]["seeds"] == [2]
    assert found["entries"]["fm"]["metrics"]["test"]["auc"]["std"] is None
    assert main([*common, "--only", "fn"]) == 1
    assert "no entry is called fn; there are fm, logistic_regression" in capsys.readouterr().err
    assert main([*common, "--seed", "9"]) == 1
    assert "seed 9 is not in ranking.compare: 1, 2" in capsys.readouterr().err


def test_help(capsys):
    with pytest.raises(SystemExit) as left:
        main(["compare", "--help"])
    assert left.value.code == 0
    shown = capsys.readouterr().out
    assert "--only ENTRY" in shown and "data/RECIPE/compare" in shown


def test_several_processes_are_refused(features, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="without torchrun"):
        compared(features, tmp_path, params(["fm"]))
