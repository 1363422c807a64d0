"""The best possible score is that of exactly the rows and steps that the metric is over."""

import shutil

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from core.artifacts import read_json, write_json
from core.cluster import ClusterSettings
from pipeline.evaluation.best_possible import NotMatched, best_of_clicks, best_of_sessions
from pipeline.grow import grow
from pipeline.ingest.clickstream import ClickstreamSourceSettings
from pipeline.ingest.criteo import CriteoSourceSettings
from pipeline.preprocess_ranking import RankingPreprocessSettings, preprocess_ranking
from pipeline.preprocess_sessions import SessionsPreprocessSettings, preprocess_sessions
from pipeline.stages.generate import generate
from pipeline.stages.ingest import ingest
from pipeline.synthetic.criteo import CriteoGenerateSettings
from pipeline.synthetic.session_process import filter_interests, predictive, successor_probability
from pipeline.synthetic.sessions import SessionsGenerateSettings, process_of
from training.sessions.settings import SessionEvaluationSettings

ONE = ClusterSettings(workers=1)
DAYS = 4
CLICKS = CriteoGenerateSettings(rows=1203, days=DAYS, seed=5, cardinality_scale=0.001)
SESSIONS = SessionsGenerateSettings(sessions=700, days=3, items=150, users=300, seed=5)
COLUMNS = {"session_id": "session_id", "item_id": "item_id", "timestamp": "timestamp"}
READ = ClickstreamSourceSettings(columns=COLUMNS)


def two_logs(recipe, settings, folder):
    """The log of ``settings`` in ``a`` and one of another seed in ``b``."""
    generate(recipe, settings, folder / "a")
    generate(recipe, settings.model_copy(update={"seed": 6}), folder / "b")
    return folder


@pytest.fixture(scope="module")
def clicks(tmp_path_factory):
    return two_logs("ranking", CLICKS, tmp_path_factory.mktemp("clicks"))


@pytest.fixture(scope="module")
def sessions(tmp_path_factory):
    return two_logs("sessions", SESSIONS, tmp_path_factory.mktemp("sessions"))


def click_features(files, folder, **split):
    ingest("ranking", CriteoSourceSettings(), files, folder / "raw", quiet=True)
    settings = RankingPreprocessSettings(split=split)
    preprocess_ranking(folder / "raw", folder / "features", settings, ONE)
    return folder / "features", read_json(folder / "features" / "manifest.json")


def best_by_hand(folder, days, split, manifest):
    """By reading the files' truth one after another."""
    truth = pl.read_parquet(folder / "truth.parquet")
    rows = pl.concat([truth.filter(pl.col("day") == day) for day in days])
    rows = rows[slice(*manifest["ranges"][split])]
    labels, chances = rows["label"].to_numpy(), rows["probability"].to_numpy().astype(np.float64)
    return {"auc": roc_auc_score(labels, chances), "logloss": log_loss(labels, chances)}


@pytest.mark.parametrize("seed", range(8))
def test_best_of_any_files_in_any_order(clicks, tmp_path, seed):
    random = np.random.default_rng(seed)
    days = random.permutation(DAYS)[: random.integers(1, DAYS + 1)].tolist()
    files = [clicks / "a" / "log" / f"day_{day}" for day in days]
    share = {"test": float(random.uniform(0.2, 0.5)), "valid": float(random.uniform(0.1, 0.4))}
    features, manifest = click_features(files, tmp_path, **share)
    for split in ("train", "valid", "test"):
        best = best_of_clicks(features, manifest, split, "label")
        assert best == pytest.approx(best_by_hand(clicks / "a", days, split, manifest), rel=1e-9)


def test_best_of_test_files_by_name(clicks, tmp_path):
    files = [clicks / "a" / "log" / f"day_{day}" for day in (3, 0, 2)]
    features, manifest = click_features(files, tmp_path, kind="files", test_files="day_0")
    best = best_of_clicks(features, manifest, "test", "label")
    by_hand = best_by_hand(clicks / "a", [3, 2, 0], "test", manifest)
    assert best == pytest.approx(by_hand, rel=1e-9)


def test_best_of_features_that_grew(clicks, tmp_path):
    log = clicks / "a" / "log"
    features, _ = click_features([log / "day_0", log / "day_1"], tmp_path, test=0.4, valid=0.2)
    ingest("ranking", CriteoSourceSettings(), log / "day_3", tmp_path / "later", quiet=True)
    manifest = grow("ranking", tmp_path / "later", features, cluster=ONE)
    for split in ("train", "valid", "test"):
        by_hand = best_by_hand(clicks / "a", [0, 1, 3], split, manifest)
        assert best_of_clicks(features, manifest, split, "label") == pytest.approx(by_hand)


def another_truth(log):
    shutil.copy(log.parent / "b" / "truth.parquet", log / "truth.parquet")


def another_log(log):
    shutil.copytree(log.parent / "b", log, dirs_exist_ok=True)


def other_files(log):
    shutil.copytree(log.parent / "b" / "log", log / "log", dirs_exist_ok=True)


def a_bad_line(log):
    day = log / "log" / "day_1"
    day.write_bytes(b"no line of this log\n" + day.read_bytes())


def fewer_rows(log):
    day = log / "log" / "day_1"
    day.write_bytes(b"".join(day.read_bytes().splitlines(keepends=True)[::2]))


def rows_in_another_order(log):
    day = log / "log" / "day_1"
    day.write_bytes(b"".join(day.read_bytes().splitlines(keepends=True)[::-1]))


def a_further_file(log):
    shutil.copy(log / "log" / "day_1", log / "log" / "day_9")


def no_manifest(log):
    (log / "manifest.json").unlink()


BEFORE = (another_truth, other_files, a_bad_line, fewer_rows, rows_in_another_order,
          a_further_file, no_manifest)  # fmt: skip


@pytest.mark.parametrize("alter", BEFORE)
def test_no_best_for_a_log_altered_before_ingest(clicks, tmp_path, alter):
    log = tmp_path / "own"
    shutil.copytree(clicks / "a", log)
    shutil.copytree(clicks / "b", tmp_path / "b")
    alter(log)
    features, manifest = click_features(log / "log", tmp_path)
    with pytest.raises(NotMatched, match="own"):
        best_of_clicks(features, manifest, "test", "label")


@pytest.mark.parametrize("alter", [another_truth, another_log])
def test_no_best_for_a_log_generated_again_after_preprocess(clicks, tmp_path, alter):
    log = tmp_path / "own"
    shutil.copytree(clicks / "a", log)
    shutil.copytree(clicks / "b", tmp_path / "b")
    features, manifest = click_features(log / "log", tmp_path)
    alter(log)
    with pytest.raises(NotMatched, match="own"):
        best_of_clicks(features, manifest, "test", "label")


def test_no_best_where_labels_differ(clicks, tmp_path):
    features, manifest = click_features(clicks / "a" / "log", tmp_path)
    (first, last), *_ = manifest["truth_rows"]["test"]
    manifest["truth_rows"]["test"] = [[first - 1, last - 1]]
    write_json(features / "manifest.json", manifest)
    with pytest.raises(NotMatched, match="labels of the test split"):
        best_of_clicks(features, manifest, "test", "label")


def test_no_best_for_a_log_that_was_not_generated(clicks, tmp_path):
    shutil.copytree(clicks / "a" / "log", tmp_path / "log")
    features, manifest = click_features(tmp_path / "log", tmp_path)
    assert best_of_clicks(features, manifest, "test", "label") is None


# sessions


def session_features(files, folder, seed):
    """Features with filters of a random kind, and which of the items they know."""
    random = np.random.default_rng(seed)
    ingest("sessions", READ, files, folder / "raw", quiet=True)
    settings = SessionsPreprocessSettings(
        split={"test": float(random.uniform(0.2, 0.5)), "valid": float(random.uniform(0.1, 0.5))},
        sessions={
            "max_length": int(random.integers(3, 20)),
            "min_length": int(random.integers(2, 4)),
            "min_item_support": int(random.integers(1, 4)),
        },
        workflow={"item_freq_threshold": int(random.integers(1, 6))},
    )
    preprocess_sessions(folder / "raw", folder / "features", settings, ONE)
    features = folder / "features"
    values = pl.read_parquet(next((features / "state").glob("*/unique.item_id.parquet")))["value"]
    return features, read_json(features / "manifest.json"), settings.sessions, values.to_list()


def best_steps(log, days, features, cut, known, split, asked):
    """Mean of each metric over the steps asked for, one session and step at a time."""
    catalog, process = process_of(SESSIONS)
    number = {item: at for at, item in enumerate(catalog.item_id.tolist())}
    files = [pl.read_csv(log / f"log/events_day_{day}.csv").with_columns(day=day)
             for day in range(SESSIONS.days)]  # fmt: skip
    events = pl.concat(files).sort("session_id", "timestamp")
    ids = pl.concat([pl.read_parquet(part) for part in (features / split).glob("*.parquet")])
    candidates = np.isin(catalog.item_id, known)
    sums, count = {}, 0
    for session in ids["session_id"].to_list():
        whole = events.filter(pl.col("session_id") == session)
        items = np.array([number[item] for item in whole["item_id"]])
        lengths = np.array([len(items)])
        followed = successor_probability(process, items, lengths)
        belief = filter_interests(items, lengths, process.pi, process.base, followed,
                                  process.follow, process.drift)  # fmt: skip
        read = [at for at, day in enumerate(whole["day"]) if day in days][-cut.max_length :]
        kept = []
        for at in read:
            again = asked.drop_repeats and kept and items[at] == items[kept[-1]]
            if candidates[items[at]] and not again:
                kept.append(at)
        places = range(1, len(kept))
        for place in places if asked.protocol == "per_step" else [*places][-1:]:
            at = kept[place]
            chance = predictive(process, belief[at - 1 : at], items[at - 1 : at])[0]
            chance[~candidates] = 0
            if asked.drop_repeats:
                chance[items[kept[place - 1]]] = 0
            total = chance.sum()
            if asked.exclude_seen:
                chance[[items[before] for before in kept[:place]]] = 0
            best = -np.sort(-chance) / total
            count += 1
            for k in asked.ks:
                gains = best[:k]
                ranks = np.arange(1, len(gains) + 1)
                for name, value in (("recall", gains), ("ndcg", gains / np.log2(ranks + 1)),
                                    ("mrr", gains / ranks)):  # fmt: skip
                    sums[f"{name}@{k}"] = sums.get(f"{name}@{k}", 0) + value.sum()
    return {name: value / count for name, value in sums.items()}


@pytest.mark.parametrize("seed", range(6))
def test_best_of_the_evaluated_steps_of_sessions(sessions, tmp_path, seed):
    random = np.random.default_rng(seed)
    days = sorted(random.permutation(3)[: random.integers(2, 4)].tolist())
    files = [sessions / "a" / "log" / f"events_day_{day}.csv" for day in days]
    features, manifest, cut, known = session_features(files[::-1], tmp_path, seed)
    for split in ("valid", "test"):
        asked = SessionEvaluationSettings(
            protocol=str(random.choice(["per_step", "last_item"])),
            ks=tuple(random.choice([1, 3, 5, 10, 20, 200], 3, replace=False).tolist()),
            drop_repeats=bool(random.integers(2)),
            exclude_seen=bool(random.integers(2)),
        )
        best = best_of_sessions(features, manifest, split, "item_id", asked)
        by_hand = best_steps(sessions / "a", days, features, cut, known, split, asked)
        assert best == pytest.approx(by_hand, rel=1e-6)


def test_best_is_the_mean_of_the_truth_where_training_knows_every_item(sessions, tmp_path):
    settings = SessionsPreprocessSettings(split={"test": 0.2})
    ingest("sessions", READ, sessions / "a" / "log", tmp_path / "raw", quiet=True)
    preprocess_sessions(tmp_path / "raw", tmp_path / "features", settings, ONE)
    features = tmp_path / "features"
    manifest = read_json(features / "manifest.json")
    ids = pl.read_parquet(features / "test/*.parquet")["session_id"]
    truth = pl.read_parquet(sessions / "a" / "truth.parquet")
    truth = truth.filter(pl.col("session_id").is_in(ids.implode()))
    every, last = SessionEvaluationSettings(), SessionEvaluationSettings(protocol="last_item")
    for asked, steps in ((every, truth), (last, truth.filter(pl.col("last")))):
        best = best_of_sessions(features, manifest, "test", "item_id", asked)
        for name, value in best.items():
            assert value == pytest.approx(steps[name].mean(), rel=0.02), name


def test_no_best_for_sessions_of_another_seed(sessions, tmp_path):
    shutil.copytree(sessions / "a", tmp_path / "own")
    shutil.copy(sessions / "b" / "truth.parquet", tmp_path / "own" / "truth.parquet")
    features, manifest, *_ = session_features(tmp_path / "own" / "log", tmp_path, 1)
    with pytest.raises(NotMatched, match=r"truth\.parquet is missing or altered"):
        best_of_sessions(features, manifest, "test", "item_id", SessionEvaluationSettings())
