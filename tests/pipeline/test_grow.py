"""Ranking features that grow by new days: codes stay, statistics are those of all days at once."""

import json
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core import outputs
from core.artifacts import read_json, write_json
from core.cluster import ClusterSettings
from core.errors import UserError
from pipeline import grow as growing
from pipeline import preprocess
from pipeline.__main__ import main
from pipeline.grow import grow
from pipeline.preprocess_ranking import RankingPreprocessSettings, preprocess_ranking
from pipeline.splits import SplitSettings, ranges_after, row_ranges
from tests.harness.kill import all_bytes
from tests.pipeline import grown as compare
from tests.pipeline.grown import take_shards, vocabularies
from tests.pipeline.test_preprocess_ranking import write_raw
from workflows.ranking import RankingWorkflowSettings

SETTINGS = RankingPreprocessSettings(
    split=SplitSettings(test=0.25, valid=0.2),
    workflow=RankingWorkflowSettings(freq_threshold=3),
    rows_per_part=170,
)
ONE = ClusterSettings(workers=1)


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
    """Features of the first two days, the same grown by the third, and those of all three."""
    root = tmp_path_factory.mktemp("fitted")
    preprocess_ranking(days["old"], root / "old", SETTINGS, ONE)
    preprocess_ranking(days["all"], root / "all", SETTINGS, ONE)
    shutil.copytree(root / "old", root / "grown")
    grow("ranking", days["new"], root / "grown", cluster=ONE)
    return root


@pytest.fixture
def features(fitted, tmp_path):
    """Features of the first two days."""
    shutil.copytree(fitted / "old", tmp_path / "features")
    return tmp_path / "features"


@pytest.fixture
def grown(fitted):
    """The bytes of features that grew undisturbed."""
    return all_bytes(fitted / "grown")


def test_the_same_days_at_once_have_the_same_statistics_and_splits(fitted):
    compare.assert_same_statistics(fitted / "grown", fitted / "all")
    whole, at_once = (read_json(fitted / name / "manifest.json") for name in ("grown", "all"))
    # 480 of the 800 old rows trained, and 720 of all 1200 do.
    assert whole["ranges"] == {"train": [0, 720], "valid": [720, 900], "test": [900, 1200]}
    for name in ("unit", "ranges", "cardinality"):
        assert whole[name] == at_once[name]
    for split in ("valid", "test"):
        found = {**whole["splits"][split], "files": 0}
        assert found == {**at_once["splits"][split], "files": 0}
        compare.assert_same_rows(
            compare.decoded(fitted / "grown", split), compare.decoded(fitted / "all", split)
        )
    assert whole["splits"]["train"]["rows"] == 720
    later = compare.decoded(fitted / "grown", "train")[480:]
    compare.assert_same_rows(later, compare.decoded(fitted / "all", "train")[480:])


def test_no_code_moves_and_no_part_that_trains_is_written_again(days, features, fitted):
    old = vocabularies(features)
    kept = {p: (p.stat().st_ino, p.read_bytes()) for p in features.glob("train/part-*.parquet")}
    manifest = grow("ranking", days["new"], features, cluster=ONE)
    for name, values in vocabularies(features).items():
        assert values[: len(old[name])] == old[name]
        assert manifest["cardinality"][name] == len(values) + 3
    assert any(len(v) > len(old[n]) for n, v in vocabularies(features).items())
    assert {p: (p.stat().st_ino, p.read_bytes()) for p in kept} == kept
    # Which of the parts were written by which fit.
    parts = [fit["parts"] for fit in manifest["fits"]]
    assert parts == [{"train": [0, len(kept)]}, {"train": [len(kept), 6]}]
    assert [fit["ranges"]["valid"][0] for fit in manifest["fits"]] == [480, 720]
    assert len(list(features.glob("train/part-*.parquet"))) == 6
    assert read_json(features / "manifest.json") == json.loads(json.dumps(manifest))


def test_growing_day_by_day_ends_where_all_days_at_once_do(tmp_path):
    raw = write_raw(tmp_path / "all", days=4, seed=3)
    split = SplitSettings(kind="days", valid=0.1)
    settings = SETTINGS.model_copy(update={"split": split})
    preprocess_ranking(raw, tmp_path / "at_once", settings, ONE)
    features = tmp_path / "features"
    preprocess_ranking(take_shards(raw, tmp_path / "0", [0, 1]), features, settings, ONE)
    for day in (2, 3):
        grow("ranking", take_shards(raw, tmp_path / str(day), [day]), features, settings, ONE)
    compare.assert_same_statistics(features, tmp_path / "at_once")
    for split_name in ("valid", "test"):
        compare.assert_same_rows(
            compare.decoded(features, split_name),
            compare.decoded(tmp_path / "at_once", split_name),
        )
    assert len(read_json(features / "manifest.json")["fits"]) == 3


EVERYTHING = RankingWorkflowSettings(
    freq_threshold=2,
    num_buckets=3,
    missing_indicators=True,
    columns={
        "I2": {"scale": "minmax", "clip_max": 40},
        "I3": {"missing": "median", "scale": "none"},
        "I4": {"transform": "none", "missing": 2, "bucketize": (0, 5, 20)},
        "C7": {"freq_threshold": 4, "num_buckets": 1},
    },
    shared_vocabularies=(("C2", "C3"),),
    hashing={"C4": 100},
    crosses=({"columns": ("C5", "C6"), "buckets": 500},),
    target_encoding=("C8", "C9"),
    target_crosses=(("C8", "I4"),),
    counts=("C8",),
)


def test_every_operator_that_can_grow(days, tmp_path):
    settings = SETTINGS.model_copy(update={"workflow": EVERYTHING})
    preprocess_ranking(days["all"], tmp_path / "all", settings, ONE)
    preprocess_ranking(days["old"], tmp_path / "features", settings, ONE)
    grow("ranking", days["new"], tmp_path / "features", settings, ONE)
    compare.assert_same_statistics(tmp_path / "features", tmp_path / "all")
    groups = EVERYTHING.shared_vocabularies
    for split, first in (("train", 480), ("valid", 0), ("test", 0)):
        found, expected = (
            compare.decoded(tmp_path / name, split, groups)[first:] for name in ("features", "all")
        )
        assert {"I4_bucket", "C5_X_C6", "TE_C8_label", "TE_C8_X_I4_label", "C8_count"} <= set(
            found.columns
        )
        compare.assert_same_rows(found, expected)


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(["fraction", "days", "last_day_halves"]),
    units=st.lists(st.integers(5, 60), min_size=3, max_size=9),
    old=st.integers(2, 8),
    valid=st.floats(0.1, 0.5),
    test=st.floats(0.1, 0.5),
)
def test_what_trains_goes_on_training_and_is_earlier_than_what_is_held_out(
    kind, units, old, valid, test
):
    split = SplitSettings(kind=kind, valid=valid, test=test)
    before = row_ranges(split, np.array(units[: min(old, len(units) - 1)]), 1)
    whole = row_ranges(split, np.array(units), 1)
    after = ranges_after(whole, before["train"][1], split)
    assert after["train"][0] == before["train"][1] <= after["train"][1] == whole["train"][1]
    assert {name: after[name] for name in ("valid", "test")} == {
        name: whole[name] for name in ("valid", "test")
    }


def test_a_larger_share_to_hold_out_takes_nothing_out_of_training(days, features):
    larger = SETTINGS.model_copy(update={"split": SplitSettings(test=0.25, valid=0.5)})
    manifest = grow("ranking", days["new"], features, larger, ONE)
    # At once 450 rows would train, but 480 do already.
    assert manifest["ranges"] == {"train": (0, 480), "valid": (480, 900), "test": (900, 1200)}
    much = SETTINGS.model_copy(update={"split": SplitSettings(test=0.7)})
    new = write_raw(features.parent / "more", days=1, seed=9)
    with pytest.raises(UserError, match=r"split.kind 'fraction': .* all train already \(480 do\)"):
        grow("ranking", new, features, much, ONE)


def test_the_same_log_twice_changes_nothing(days, fitted, tmp_path, capsys):
    features = tmp_path / "features"
    shutil.copytree(fitted / "grown", features)
    before = all_bytes(features)
    for raw in ("new", "old"):
        grow("ranking", days[raw], features, cluster=ONE)
        assert "already; nothing to do" in capsys.readouterr().out
        assert all_bytes(features) == before


def with_hashes(raw, folder, wanted):
    """:func:`take_shards` with the shards' hashes and inputs, as ingest writes them."""
    take_shards(raw, folder, wanted)
    manifest = read_json(folder / "manifest.json")
    shards = [{**shard, "sha256": shard["file"]} for shard in manifest["shards"]]
    write_json(folder / "manifest.json", {**manifest, "shards": shards})
    return folder


def test_of_a_log_that_was_added_to_only_the_new_shards_are_taken(days, fitted, tmp_path, capsys):
    features, all_days = tmp_path / "features", with_hashes(days["all"], tmp_path / "all", range(3))
    preprocess_ranking(with_hashes(days["all"], tmp_path / "old", [0, 1]), features, SETTINGS, ONE)
    grow("ranking", all_days, features, cluster=ONE)
    assert "2 of 3 shards are in the features already" in capsys.readouterr().out
    compare.assert_same_statistics(features, fitted / "all")
    manifest = read_json(all_days / "manifest.json")
    more = {**manifest["shards"][2], "file": "part-00003.parquet", "sha256": "new"}
    write_json(all_days / "manifest.json", {**manifest, "shards": [*manifest["shards"], more]})
    with pytest.raises(UserError, match="day_2: some of its rows are in the features already"):
        grow("ranking", all_days, features, cluster=ONE)


def test_other_settings_logs_and_recipes_are_refused(days, features, tmp_path):
    changed = SETTINGS.model_copy(update={"workflow": RankingWorkflowSettings(freq_threshold=9)})
    with pytest.raises(UserError, match=r"workflow\.freq_threshold \(3, now 9\)"):
        grow("ranking", days["new"], features, changed, ONE)
    with pytest.raises(UserError, match="which no stage wrote"):
        grow("ranking", days["new"], days["old"], SETTINGS, ONE)
    with pytest.raises(UserError, match="features of the recipe 'ranking', not of 'interactions'"):
        grow("interactions", days["new"], features)
    window = SETTINGS.model_copy(update={"split": SplitSettings(kind="window")})
    with pytest.raises(UserError, match=r"split\.kind \('fraction', now 'window'\)"):
        grow("ranking", days["new"], features, window, ONE)
    preprocess_ranking(days["old"], tmp_path / "window", window, ONE)
    with pytest.raises(UserError, match=r"split\.kind 'window' cannot grow.*choose kind 'days'"):
        grow("ranking", days["new"], tmp_path / "window", cluster=ONE)
    manifest = read_json(days["new"] / "manifest.json")
    shutil.copytree(days["new"], tmp_path / "other")
    write_json(tmp_path / "other" / "manifest.json", {**manifest, "columns": ["label"]})
    with pytest.raises(UserError, match="its columns are label; those of the log that the feat"):
        grow("ranking", tmp_path / "other", features, cluster=ONE)


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
        "state": (growing, "save_state"),
        "exchange": (outputs, "exchange"),
        "swept": (growing, "remove_sibling"),
    }
    with monkeypatch.context() as patch:
        patch.setattr(*places[step], dies)
        with pytest.raises(Killed):
            grow("ranking", days["new"], features, cluster=ONE)
    after = all_bytes(features)
    assert after == (grown if step == "swept" else before)
    grow("ranking", days["new"], features, cluster=ONE)
    assert all_bytes(features) == grown
    assert [p.name for p in features.parent.iterdir() if p.name.startswith(".")] == []


def test_a_process_that_was_killed_is_followed_by_one_that_ends_well(days, features, grown):
    script = (
        "import sys, os, signal; from core import outputs; from pipeline import grow; "
        "outputs.exchange = lambda *a: os.kill(os.getpid(), signal.SIGKILL); "
        "grow.grow('ranking', sys.argv[1], sys.argv[2])"
    )
    command = [sys.executable, "-c", script, str(days["new"]), str(features)]
    assert subprocess.run(command, capture_output=True).returncode == -signal.SIGKILL
    assert main(["preprocess", "ranking", "--input", str(days["new"]), "--output", str(features),
                 "--grow", "--set", "ranking.preprocess.split.test=0.25",
                 "--set", "ranking.preprocess.split.valid=0.2",
                 "--set", "ranking.preprocess.rows_per_part=170",
                 "--set", "ranking.preprocess.workflow.freq_threshold=3"]) == 0  # fmt: skip
    assert all_bytes(features) == grown
