"""Features that grow by new days: codes stay, statistics are those of all days at once."""

import math
import os
import shutil
import signal
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.artifacts import read_json, write_json, write_parquet
from core.cluster import ClusterSettings
from core.errors import UserError
from pipeline import grow, preprocess
from pipeline.__main__ import main
from pipeline.grow import grow_ranking
from pipeline.preprocess import RankingPreprocessSettings, preprocess_ranking
from pipeline.splits import SplitSettings
from tests.pipeline.test_preprocess_ranking import all_bytes, read, write_raw
from workflows.ranking import CATEGORICAL, DENSE, RankingWorkflowSettings

SETTINGS = RankingPreprocessSettings(
    split=SplitSettings(test=0.25, valid=0.2),
    workflow=RankingWorkflowSettings(freq_threshold=3),
    rows_per_part=170,
)
ONE = ClusterSettings(workers=1)


def take_shards(raw, folder, wanted):
    """Some shards of a raw log as a raw log of their own."""
    folder.mkdir()
    manifest = read_json(raw / "manifest.json")
    shards = [manifest["shards"][number] for number in wanted]
    for shard in shards:
        os.link(raw / shard["file"], folder / shard["file"])
    write_json(folder / "manifest.json", {**manifest, "shards": shards})
    return folder


@pytest.fixture(scope="module")
def days(tmp_path_factory):
    root = tmp_path_factory.mktemp("days")
    raw = write_raw(root / "all", days=3)
    return {
        "all": raw,
        "old": take_shards(raw, root / "old", [0, 1]),
        "new": take_shards(raw, root / "new", [2]),
    }


@pytest.fixture(scope="module")
def fitted(days, tmp_path_factory):
    """Features of the first two days, and the same grown by the third."""
    root = tmp_path_factory.mktemp("fitted")
    preprocess_ranking(days["old"], root / "old", SETTINGS, ONE)
    shutil.copytree(root / "old", root / "grown")
    grow_ranking(days["new"], root / "grown", cluster=ONE)
    return root


@pytest.fixture
def features(fitted, tmp_path):
    """Features of the first two days."""
    shutil.copytree(fitted / "old", tmp_path / "features")
    return tmp_path / "features"


@pytest.fixture
def grown(fitted, tmp_path):
    """The bytes of features that grew undisturbed."""
    return all_bytes(fitted / "grown")


def state_of(features):
    """Counts by column, vocabularies by column, moments by column."""
    counts, vocabulary = {}, {}
    for path in (features / "state").rglob("*.parquet"):
        kind, name, _ = path.name.split(".")
        table = pq.read_table(path).to_pydict()
        if kind == "counts":
            counts[name] = dict(zip(table["value"], table["count"], strict=True))
        else:
            vocabulary[name] = table["value"]
    operators = read_json(features / "state" / "state.json")["operators"]
    moments = next(o["state"]["moments"] for o in operators if o["operator"] == "Normalize")
    return counts, vocabulary, moments


def test_statistics_are_those_of_old_and_new_training_rows(days, features):
    old = state_of(features)
    kept = {p: (p.stat().st_ino, p.read_bytes()) for p in features.glob("*/part-*.parquet")}
    manifest = grow_ranking(days["new"], features, cluster=ONE)
    # 480 of the 800 old rows train, and 240 of the 400 new ones.
    raw = pd.concat([pq.read_table(p).to_pandas() for p in sorted(days["all"].glob("*.parquet"))])
    training = pd.concat([raw.iloc[:480], raw.iloc[800:1040]])
    counts, vocabulary, moments = state_of(features)
    for name in CATEGORICAL:
        expected = training[name].dropna().astype(int).value_counts().to_dict()
        assert counts[name] == expected
        known = old[1][name]
        assert vocabulary[name][: len(known)] == known
        due = [v for v in expected if expected[v] >= 3 and v not in set(known)]
        assert vocabulary[name][len(known) :] == sorted(due, key=lambda v: (-expected[v], v))
        assert manifest["cardinality"][name] == len(vocabulary[name]) + 3
    for name in DENSE:
        values = np.log1p(training[name].fillna(0).clip(lower=0).astype("float32"))
        n, mean, deviations = moments[name]
        assert n == len(training)
        assert mean == pytest.approx(values.mean(), rel=1e-5)
        assert math.sqrt(deviations / (n - 1)) == pytest.approx(values.std(), rel=1e-5)
    assert {p: (p.stat().st_ino, p.read_bytes()) for p in kept} == kept
    rows = {"train": 480 + 240, "valid": 120 + 60, "test": 200 + 100}
    for split, expected in rows.items():
        assert manifest["splits"][split]["rows"] == len(read(features, split)) == expected
    codes = {value: 3 + rank for rank, value in enumerate(vocabulary["C20"])}
    tail = raw["C20"].iloc[1100:1200]
    expected = [1 if np.isnan(v) else codes.get(int(v), 2) for v in tail.astype(float)]
    assert read(features, "test")["C20"].tolist()[-100:] == expected
    unknown = (read(features, "test")["C20"] == 2).mean()
    assert manifest["splits"]["test"]["oov_rate"]["C20"] == pytest.approx(unknown, abs=1e-6)
    assert read_json(features / "manifest.json") == manifest


def test_a_fit_of_the_same_training_rows_at_once_has_the_same_statistics(days, features, tmp_path):
    grow_ranking(days["new"], features, cluster=ONE, all_train=True)
    rows = pa.concat_tables(pq.read_table(path) for path in sorted(days["all"].glob("*.parquet")))
    # What trained, 480 rows and then 400 of the new day, first; 20 rows validate, 300 test.
    rows = pa.concat_tables([rows[:480], rows[800:], rows[480:800]])
    raw, at_once = tmp_path / "raw", tmp_path / "at_once"
    write_parquet(raw / "part-00000.parquet", rows)
    manifest = read_json(days["all"] / "manifest.json")
    shard = {**manifest["shards"][0], "rows": 1200}
    write_json(raw / "manifest.json", {**manifest, "shards": [shard]})
    split = SplitSettings(test=0.25, valid=20 / 900)
    preprocess_ranking(raw, at_once, SETTINGS.model_copy(update={"split": split}), ONE)
    grown, whole = state_of(features), state_of(at_once)
    assert grown[0] == whole[0]
    for name in CATEGORICAL:
        assert set(grown[1][name]) == set(whole[1][name])
    for name in DENSE:
        assert grown[2][name] == pytest.approx(whole[2][name], rel=1e-9)


def test_the_same_log_twice_changes_nothing(days, fitted, tmp_path, capsys):
    features = tmp_path / "features"
    shutil.copytree(fitted / "grown", features)
    before = all_bytes(features)
    for raw in ("new", "old"):
        grow_ranking(days[raw], features, cluster=ONE)
        assert "already; nothing to do" in capsys.readouterr().out
        assert all_bytes(features) == before


def test_other_workflow_settings_are_refused(days, features):
    changed = SETTINGS.model_copy(update={"workflow": RankingWorkflowSettings(freq_threshold=9)})
    with pytest.raises(UserError, match=r"workflow\.freq_threshold \(3, now 9\)"):
        grow_ranking(days["new"], features, changed, ONE)
    with pytest.raises(UserError, match="no finished features"):
        grow_ranking(days["new"], days["old"], SETTINGS, ONE)


def test_all_new_rows_may_train(days, features):
    manifest = grow_ranking(days["new"], features, SETTINGS, ONE, all_train=True)
    assert {name: s["rows"] for name, s in manifest["splits"].items()} == {
        "train": 480 + 400,
        "valid": 120,
        "test": 200,
    }


@pytest.mark.parametrize("step", ["part", "state", "exchange", "swept"])
def test_a_kill_leaves_the_old_state_or_the_new_and_the_next_run_ends_it(
    days, features, grown, monkeypatch, step
):
    before = all_bytes(features)

    class Killed(BaseException):
        pass

    def dies(*_, **__):
        raise Killed

    places = {
        "part": (preprocess, "describe"),
        "state": (grow, "save_state"),
        "exchange": (grow, "exchange"),
        "swept": (grow, "shutil"),
    }
    with monkeypatch.context() as patch:
        patch.setattr(*places[step], SimpleNamespace(rmtree=dies) if step == "swept" else dies)
        with pytest.raises(Killed):
            grow_ranking(days["new"], features, cluster=ONE)
    after = all_bytes(features)
    assert after == (grown if step == "swept" else before)
    grow_ranking(days["new"], features, cluster=ONE)
    assert all_bytes(features) == grown
    assert [p.name for p in features.parent.iterdir() if p.name.startswith(".")] == []


def test_folders_are_exchanged_without_renameat2_too(tmp_path, monkeypatch):
    a, b = tmp_path / ".f.grow", tmp_path / "f"
    (a / "new").mkdir(parents=True)
    (b / "old").mkdir(parents=True)
    monkeypatch.setattr(grow.ctypes, "CDLL", lambda *_, **__: object())
    grow.exchange(a, b)
    assert (b / "new").exists() and (a / "old").exists()
    os.replace(b, a.with_name("lost"))
    os.replace(a, tmp_path / ".f.before")
    os.replace(a.with_name("lost"), a)
    grow._finish_exchange(b)  # killed after the first of three steps
    assert (b / "new").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_a_process_that_was_killed_is_followed_by_one_that_ends_well(days, features, grown):
    script = (
        "import sys, os, signal; from pipeline import grow; "
        "grow.exchange = lambda *a: os.kill(os.getpid(), signal.SIGKILL); "
        "grow.grow_ranking(sys.argv[1], sys.argv[2])"
    )
    command = [sys.executable, "-c", script, str(days["new"]), str(features)]
    assert subprocess.run(command, capture_output=True).returncode == -signal.SIGKILL
    assert main(["preprocess", "ranking", "--input", str(days["new"]), "--output", str(features),
                 "--grow", "--set", "ranking.preprocess.split.test=0.25",
                 "--set", "ranking.preprocess.split.valid=0.2",
                 "--set", "ranking.preprocess.rows_per_part=170",
                 "--set", "ranking.preprocess.workflow.freq_threshold=3"]) == 0  # fmt: skip
    assert all_bytes(features) == grown
