"""What is printed and written with metrics is what was computed."""

import json
import re

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.preprocessing import OneHotEncoder

from core.artifacts import read_json, write_json
from core.console import counted
from core.merlin import schema_to_json
from pipeline.evaluation import remarks
from pipeline.evaluation.baselines import below, click_baselines
from pipeline.evaluation.metric_names import headlines, once, shown
from pipeline.ingest.clickstream import ClickstreamSourceSettings
from pipeline.params import Params
from pipeline.stages.evaluate import evaluate
from pipeline.stages.ingest import ingest
from pipeline.stages.train import read_schema, train
from tests.pipeline.comparison import CLICK_ROWS, CLICKS, SESSIONS, click_features, session_features
from tests.training import interaction_log
from training.ranking.baselines import SolvedRegression, solved_regression


@pytest.fixture(scope="module")
def sessions(tmp_path_factory):
    """Features, and a model of what is popular."""
    folder = tmp_path_factory.mktemp("sessions")
    session_features(folder / "features")
    train("sessions", folder / "features", folder / "model", of_sessions("popular"))
    return folder


def of_sessions(model, **changes):
    small = {"d_model": 8, "layers": 1, "heads": 1}
    quick = {"epochs": 1, "batch_size": 16}
    return Params({"sessions": {"model": model, "sasrec": small, "train": quick, **changes}})


def judged(folder, given, recipe="sessions", model="model"):
    plots = folder / "plots"
    file = folder / "metrics.json"
    return evaluate(recipe, folder / "features", folder / model, file, plots, given)


@pytest.mark.parametrize("seed", range(8))
def test_metrics_baselines_and_plots_have_the_list_lengths_of_ks(sessions, capsys, seed):
    """Metrics, baselines, the last line and the plots name the lengths that were asked for."""
    random = np.random.default_rng(seed)
    ks = random.choice([1, 2, 3, 5, 7, 10, 19, 20, 21, 50], random.integers(1, 5), replace=False)
    ks = ks.tolist()
    metrics = judged(sessions, of_sessions("popular", evaluate={"ks": ks}))
    assert {int(name.partition("@")[2]) for name in metrics if "@" in name} == set(ks)
    first = max([k for k in ks if k <= 20], default=min(ks))
    said = capsys.readouterr().out
    last = said.splitlines()[-1]
    assert f"recall@{first} {metrics[f'recall@{first}']:.4f}" in last and "undefined" not in said
    ranked = {f"{name}@{k}" for name in ("recall", "ndcg", "mrr") for k in ks}
    assert ranked == set(metrics["popular"]) == set(metrics["baselines"]["sequential_rules"])
    for name in ranked:
        assert metrics["popular"][name] == pytest.approx(metrics[name])
    (length, *_) = json.loads((sessions / "plots" / "by_session_length.json").read_text())
    assert (length["k"], length["recall"]) == (first, length[f"recall@{first}"])


@pytest.mark.parametrize("ks", [[3], [1, 5, 10], [30, 50]])
def test_training_watches_a_length_that_is_asked_for(sessions, tmp_path, ks):
    given = of_sessions("sasrec", evaluate={"ks": ks})
    record = train("sessions", sessions / "features", tmp_path / "model", given)
    assert {int(name.partition("@")[2]) for name in record["learned"]["valid"]} == set(ks)
    (tmp_path / "features").symlink_to(sessions / "features")
    judged(tmp_path, given)
    points = json.loads((tmp_path / "plots" / "validation.json").read_text())
    best = record["learned"]["valid"][f"ndcg@{points[-1]['k']}"]
    assert points[-1]["ndcg"] == pytest.approx(best)


def test_metrics_that_are_equal_are_listed_once(sessions):
    metrics = judged(sessions, of_sessions("popular"))
    assert not [name for name in metrics if name.startswith(("hit@", "map@"))]
    named = of_sessions("popular", evaluate={"metrics": ["mrr", "hit"]})
    assert {name.partition("@")[0] for name in judged(sessions, named)} >= {"mrr", "hit"}
    assert once(["recall@1", "mrr@1", "hit@1", "mrr@5", "map@5"]) == ["recall@1", "mrr@5"]
    assert headlines(["recall@5", "recall@30", "coverage@5", "logloss"]) == ["recall@5", "logloss"]
    assert "map@5" not in shown({"map@5": 1, "mrr@5": 1})


def test_sessions_that_are_not_in_the_metrics_are_counted(sessions, capsys):
    metrics = judged(sessions, of_sessions("popular", evaluate={"protocol": "last_item"}))
    assert metrics["predictions"] == metrics["sessions"] <= SESSIONS["test"] == metrics["rows"]
    said = capsys.readouterr().out
    counts = f"{counted(metrics['predictions'], 'next item')} of {metrics['sessions']} sessions"
    assert f"On the test split: {counts}" in said
    metrics = {"sessions": 21}
    (few, left_out) = remarks.of_sessions(metrics, "test", 24)
    assert few.startswith("the test split has only 21 sessions")
    assert left_out.startswith("3 of 24 sessions of the test split are not in the metrics")


@pytest.mark.parametrize("seed", range(4))
def test_users_that_are_not_in_the_metrics_are_counted(tmp_path, seed, capsys):
    """Some have chosen all of their held-out items before."""
    random = np.random.default_rng(seed)
    users = random.permutation(np.arange(3, interaction_log.USERS))
    again = set(users[: random.integers(1, 12)].tolist())
    rows = {"train": [], "valid": [], "test": []}
    for user in users.tolist():
        items = random.permutation(np.arange(3, interaction_log.ITEMS)).tolist()
        rows["train"] += [(user, item, 1) for item in items[:6]]
        rows["valid"] += [(user, items[6], 1)]
        rows["test"] += [(user, items[0 if user in again else 7], 1)]
    features = tmp_path / "features"
    for split, ratings in rows.items():
        interaction_log.write(features / split, ratings)
    (features / "schema.json").write_text(schema_to_json(interaction_log.schema()))
    write_json(features / "plan.json", {})
    splits = {split: {"rows": len(ratings)} for split, ratings in rows.items()}
    write_json(features / "manifest.json", {"unit": "rows", "splits": splits})
    given = Params(
        {"interactions": {"mf": {"ks": [5], "embedding_dim": 4}, "train": {"epochs": 1}}}
    )
    train("interactions", features, tmp_path / "model", given)
    capsys.readouterr()
    metrics = judged(tmp_path, given, "interactions")
    judged_users = len(users) - len(again)
    assert metrics["users"] == judged_users and set(metrics["popular"]) == {"recall@5", "ndcg@5"}
    said = capsys.readouterr().out
    assert f"On the test split: {counted(judged_users, 'user')}" in said
    assert f"{len(again)} of {len(users)} users with items" in said
    assert "evaluate: test: recall@5" in said


# baselines


@pytest.fixture(scope="module")
def clicks(tmp_path_factory):
    return click_features(tmp_path_factory.mktemp("clicks") / "features")


def frame(features, split):
    return pl.read_parquet(features / split / "*.parquet")


def test_always_the_mean_is_that_of_training(clicks):
    baseline = click_baselines(clicks, read_schema(clicks), "test", "label")["always_the_mean"]
    rate, labels = frame(clicks, "train")["label"].mean(), frame(clicks, "test")["label"].to_numpy()
    assert baseline["logloss"] == pytest.approx(log_loss(labels, np.full(len(labels), rate)))
    assert baseline["auc"] == 0.5


@pytest.mark.parametrize("strength", [100.0, 10.0, 1.0, 0.1])
def test_the_regression_equals_scikit_learns(clicks, strength):
    """On single codes and continuous columns; lists are left out of this comparison."""
    from training.batches import Batches
    from training.ranking.baselines import _joined

    whole = read_schema(clicks)
    names = [column.name for column in whole if not column.is_list]
    schema = whole.select_by_name(names)
    model = SolvedRegression(schema, "label")
    rows = _joined(model, Batches(clicks / "train", schema, 100, shuffle=False))
    model.fit(rows, strength)
    numbers = [name for name in names if name in model.numbers]
    codes = [name for name in model.first if name not in model.numbers]
    train_frame = frame(clicks, "train")
    encoder = OneHotEncoder(sparse_output=False).fit(train_frame[codes].to_numpy())
    inputs = [encoder.transform(train_frame[codes].to_numpy()), train_frame[numbers].to_numpy()]
    inputs, labels = np.hstack(inputs), train_frame["label"].to_numpy()
    theirs = LogisticRegression(C=1 / strength, max_iter=5000, tol=1e-8).fit(inputs, labels)
    logits = model.logits(rows)
    np.testing.assert_allclose(logits, theirs.decision_function(inputs), atol=0.02)
    assert model.loss(rows) == pytest.approx(
        log_loss(labels, theirs.predict_proba(inputs)[:, 1]), abs=1e-4
    )


@pytest.mark.parametrize("seed", range(5))
def test_the_regression_scores_batches_as_their_matrices(clicks, seed):
    """Numbers, codes and lists of either, with any weights, in batches of any size."""
    import torch

    from training.batches import Batches

    random, schema = np.random.default_rng(seed), read_schema(clicks)
    model = SolvedRegression(schema, "label")
    model.weights = random.normal(size=len(model.weights))
    for inputs, labels in Batches(
        clicks / "test", schema, int(random.integers(1, 300)), shuffle=False
    ):
        for name in random.choice(list(model.first), 3, replace=False):
            one = inputs.pop(name)
            lengths = random.integers(0, 4, len(one))
            inputs[f"{name}__values"] = one[random.integers(0, len(one), lengths.sum())]
            inputs[f"{name}__offsets"] = torch.from_numpy(np.append(0, lengths.cumsum()))
        batch = inputs, labels
        assert model.predict(batch).tobytes() == model.logits(model.rows(batch)).tobytes()


def test_the_regression_reads_lists_and_validates(clicks):
    model = solved_regression(clicks, read_schema(clicks), "label")
    baselines = click_baselines(clicks, read_schema(clicks), "valid", "label")
    assert (
        baselines["logistic_regression"]["logloss"]
        <= baselines["always_the_mean"]["logloss"] + 0.01
    )
    assert set(model.first) == {c.name for c in read_schema(clicks) if c.name != "label"}


def test_baselines_can_be_left_out(sessions, tmp_path, monkeypatch, capsys):
    from pipeline.__main__ import main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text("sessions: {model: popular}\n")
    command = ["evaluate", "sessions", "--features", str(sessions / "features"), "--model",
               str(sessions / "model"), "--metrics", "m.json", "--plots", "plots"]  # fmt: skip
    written = {}
    for option in ([], ["--no-baselines"]):
        assert main([*command, *option]) == 0
        said = capsys.readouterr().out
        assert "On the test split" in said and ("baseline" in said) is not bool(option)
        written[bool(option)] = read_json(tmp_path / "m.json")
    for name in ("baselines", "popular"):
        written[False].pop(name)
    written[False]["remarks"] = [
        remark for remark in written[False]["remarks"] if "below the baseline" not in remark
    ]
    assert written[True] == written[False]


def test_a_model_below_a_baseline_is_named(clicks, tmp_path, capsys):
    (tmp_path / "features").symlink_to(clicks)
    slow = {**CLICKS, "model": "dlrm", "train": {**CLICKS["train"], "learning_rate": 1e-9}}
    train("ranking", clicks, tmp_path / "model", Params({"ranking": slow}))
    metrics = judged(tmp_path, Params({"ranking": slow}), "ranking")
    said = capsys.readouterr().out
    theirs = metrics["baselines"]["logistic_regression"]
    assert f"auc {metrics['auc']:.4f} against {theirs['auc']:.4f}" in said
    assert "dlrm scores below the baseline 'logistic regression'" in said
    assert metrics["rows"] == CLICK_ROWS["test"]
    assert "auc (higher is better)" in said and "calibration (best at 1)" in said


@pytest.mark.parametrize("label", [0, 1])
def test_labels_of_one_value_are_a_remark(tmp_path, capsys, label, recwarn):
    features = click_features(tmp_path / "features")
    for part in features.glob("*/*.parquet"):
        pl.read_parquet(part).with_columns(pl.lit(label, pl.Int8).alias("label")).write_parquet(
            part
        )
    (features / "valid").rename(tmp_path / "valid")
    (features / "valid").mkdir()
    manifest = json.loads((features / "manifest.json").read_text())
    manifest["splits"]["valid"]["rows"] = 0
    write_json(features / "manifest.json", manifest)
    given = Params({"ranking": {**CLICKS, "model": "fm"}})
    train("ranking", features, tmp_path / "model", given)
    metrics = judged(tmp_path, given, "ranking")
    said = capsys.readouterr().out
    assert f"the test split has no row with label = {1 - label} (of 300)" in said
    assert metrics["auc"] is None and metrics["baselines"]["logistic_regression"]["auc"] is None
    assert not [warning for warning in recwarn if "overflow" in str(warning.message)]


def test_differences_too_small_to_print_are_not_below():
    mine = {"auc": 0.7, "logloss": 0.45}
    assert below("m", mine, {"popular": {"auc": 0.7004, "logloss": 0.4496}}) == []
    (said,) = below("m", mine, {"popular": {"auc": 0.6, "logloss": 0.44}})
    assert "logloss 0.4500 against 0.4400" in said and "auc" not in said
    assert below("m", {"auc": None}, {"popular": {"auc": 0.6}}) == []


@pytest.mark.parametrize(
    ("labels", "probabilities", "expected"),
    [
        ([0] * 500, [0.1] * 500, "the test split has no row with click = 1 (of 500)"),
        ([1] * 500, [0.1] * 500, "the test split has no row with click = 0 (of 500)"),
        ([1] * 100 + [0] * 400, [0.2] * 500, "0.8000 is that of never saying click"),
        ([1] * 400 + [0] * 100, [0.7] * 500, "0.8000 is that of always saying click"),
        ([1] * 100 + [0] * 400, [0.2, 0.6] * 250, "no better than that of always"),
        ([1] * 20 + [0] * 40, [0.6] * 20 + [0.2] * 40, "the test split has only 60 rows"),
        (
            [1] * 5 + [0] * 900,
            [0.6] * 5 + [0.2] * 900,
            "the test split has only 5 of 905 rows with click = 1",
        ),
        (
            [1] * 1 + [0] * 900,
            [0.6] * 1 + [0.2] * 900,
            "the test split has only 1 of 901 rows with click = 1",
        ),
    ],
)
def test_remarks_on_one_class_on_accuracy_and_on_small_splits(labels, probabilities, expected):
    labels, probabilities = np.array(labels), np.array(probabilities)
    accuracy = float(((probabilities >= 0.5) == (labels > 0)).mean())
    lines = remarks.of_clicks({"accuracy": accuracy}, "test", probabilities, labels, "click")
    assert any(expected in remark for remark in lines), lines


def test_a_sound_evaluation_has_no_remarks():
    random = np.random.default_rng(0)
    chances = random.random(2000)
    labels = (random.random(2000) < chances).astype(int)
    accuracy = float(((chances >= 0.5) == (labels > 0)).mean())
    assert remarks.of_clicks({"accuracy": accuracy}, "test", chances, labels, "click") == []


@pytest.mark.parametrize("number", [0, 1, 2, 1000])
def test_nouns_agree_with_their_numbers(number):
    assert re.fullmatch(r"1 session|(0|2|1,000) sessions", counted(number, "session"))
    assert counted(1, "query", "queries") == "1 query"


def test_quarantined_lines_have_their_reasons_and_place(tmp_path, capsys):
    lines = [f"s{n // 4},i{n % 5},{1_700_000_000 + n}" for n in range(300)]
    lines[40] = "s9,,1700000000"
    lines[70] = lines[90] = "s9,i1,soon"
    (tmp_path / "log.csv").write_text("\n".join(["session_id,item_id,timestamp", *lines]))
    columns = {name: name for name in ("session_id", "item_id", "timestamp")}
    given = ClickstreamSourceSettings(columns=columns, max_bad_fraction=0.1)
    ingest("sessions", given, tmp_path / "log.csv", tmp_path / "raw")
    said = capsys.readouterr().out
    assert "quarantined: 3 lines: timestamp wrong (2), item_id missing (1); the first: " in said
    for line, column in ((42, "item_id"), (72, "timestamp"), (92, "timestamp")):
        assert f"{tmp_path / 'log.csv'}:{line}: {column}" in said
    assert f"all are in {tmp_path / 'raw' / 'quarantine.parquet'}" in said
    assert "300 lines → 297 rows in 1 shard, 3 quarantined" in said


@pytest.mark.parametrize(
    ("unseen", "said"), [(0.0, False), (0.49, False), (0.5, True), (1.0, True)]
)
def test_many_rows_of_unseen_users_are_a_remark(unseen, said):
    lines = remarks.of_users("test", 1000, 1000, unseen)
    assert any(f"{unseen:.1%} of the rows of the test split" in line for line in lines) == said
