"""Ranking features against a reference on one core, and what survives an interruption."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.artifacts import temporary_path, write_json, write_parquet
from core.cluster import ClusterSettings
from core.errors import UserError
from pipeline import preprocess
from pipeline.preprocess_ranking import RankingPreprocessSettings, preprocess_ranking
from pipeline.splits import SplitSettings
from tests.harness.kill import all_bytes
from tests.workflows.test_categorify import reference_codes
from workflows.ranking import CATEGORICAL, DENSE, LABEL, RankingWorkflowSettings

ROWS_A_DAY = 400


def write_raw(folder, days=3, seed=0):
    """A small raw log of several shards with blanks, rare values and negative integers."""
    rng = np.random.default_rng(seed)
    shards = []
    for day in range(days):
        columns = {LABEL: pa.array(rng.integers(0, 2, ROWS_A_DAY), pa.int8())}
        for name in DENSE:
            values = rng.geometric(0.05, ROWS_A_DAY) - 3
            columns[name] = pa.array(values, pa.int32(), mask=rng.random(ROWS_A_DAY) < 0.2)
        for number, name in enumerate(CATEGORICAL):
            values = rng.zipf(1.3, ROWS_A_DAY) % (5 + 40 * number) + 2**31 + day
            columns[name] = pa.array(values, pa.int64(), mask=rng.random(ROWS_A_DAY) < 0.1)
        columns["day"] = pa.array(np.full(ROWS_A_DAY, day), pa.int16())
        write_parquet(folder / f"part-{day:05d}.parquet", pa.table(columns), row_group_size=150)
        shards.append(
            {
                "file": f"part-{day:05d}.parquet",
                "rows": ROWS_A_DAY,
                "source": f"day_{day}",
                "source_index": day,
            }
        )
    write_json(folder / "manifest.json", {"columns": list(columns), "shards": shards})
    return folder


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    return write_raw(tmp_path_factory.mktemp("raw"))


def read(folder, split):
    return pd.concat(
        [pq.read_table(path).to_pandas() for path in sorted((folder / split).glob("*.parquet"))]
    ).reset_index(drop=True)


SETTINGS = RankingPreprocessSettings(
    split=SplitSettings(test=0.25, valid=0.2),
    workflow=RankingWorkflowSettings(freq_threshold=3, max_size=40),
    rows_per_part=170,
)


@pytest.fixture(scope="module")
def features(raw, tmp_path_factory):
    output = tmp_path_factory.mktemp("features") / "features"
    preprocess_ranking(raw, output, SETTINGS, ClusterSettings(workers=2))
    return output


def test_features_equal_a_plain_reference(raw, features):
    log = pd.concat([pq.read_table(p).to_pandas() for p in sorted(raw.glob("*.parquet"))])
    cuts = {"train": (0, 720), "valid": (720, 900), "test": (900, 1200)}
    training = log.iloc[:720]
    for split, (first, last) in cuts.items():
        rows, found = log.iloc[first:last], read(features, split)
        assert len(found) == last - first
        assert found[LABEL].tolist() == rows[LABEL].tolist()
        for name in DENSE:
            logged = np.log1p(training[name].fillna(0).clip(lower=0))
            expected = np.log1p(rows[name].fillna(0).clip(lower=0))
            expected = (expected - logged.mean()) / logged.std()
            np.testing.assert_allclose(found[name], expected, atol=1e-5)
        for name in CATEGORICAL:
            known = training[name].dropna().astype(int).tolist()
            values = [None if np.isnan(v) else int(v) for v in rows[name].astype(float)]
            assert found[name].tolist() == reference_codes(known, values, 3, 40), name


def test_numbers_become_levels_with_a_vocabulary(raw, tmp_path):
    settings = SETTINGS.model_copy(
        update={"workflow": RankingWorkflowSettings(freq_threshold=3, dense_levels=True)}
    )
    manifest = preprocess_ranking(raw, tmp_path / "out", settings)
    log = pd.concat([pq.read_table(p).to_pandas() for p in sorted(raw.glob("*.parquet"))])

    def level(value):
        if np.isnan(value):
            return None
        return int(np.log(value) ** 2) + 2 if value > 2 else int(value)

    for name in DENSE:
        levels = [level(value) for value in log[name].astype(float)]
        known = [found for found in levels[:720] if found is not None]
        found = read(tmp_path / "out", "test")[f"{name}_level"]
        assert found.tolist() == reference_codes(known, levels[900:], 3), name
        assert 10 < manifest["cardinality"][f"{name}_level"] < 40


def test_the_manifest_counts_rows_and_unseen_values(features):
    manifest = preprocess.read_json(features / "manifest.json")
    assert {name: split["rows"] for name, split in manifest["splits"].items()} == {
        "train": 720,
        "valid": 180,
        "test": 300,
    }
    test = read(features, "test")
    expected = (test["C20"] == 2).mean()
    assert manifest["splits"]["test"]["oov_rate"]["C20"] == pytest.approx(expected, abs=1e-6)
    assert manifest["cardinality"]["C1"] <= 40


@pytest.mark.parametrize(
    "change",
    [
        {"rows_per_part": 1000},
        {"rows_per_part": 33},
    ],
)
def test_codes_do_not_depend_on_the_partitioning(raw, features, tmp_path, change):
    settings = SETTINGS.model_copy(update=change)
    preprocess_ranking(raw, tmp_path / "out", settings, ClusterSettings(workers=1))
    for split in ("train", "test"):
        pd.testing.assert_frame_equal(
            read(tmp_path / "out", split), read(features, split), rtol=1e-6, atol=1e-6
        )


def test_worker_processes_give_the_same_bytes(raw, features, tmp_path):
    preprocess_ranking(
        raw, tmp_path / "out", SETTINGS, ClusterSettings(kind="processes", workers=2)
    )
    assert all_bytes(tmp_path / "out") == all_bytes(features)


def test_an_interrupted_run_goes_on_and_ends_in_the_same_bytes(
    raw, features, tmp_path, monkeypatch
):
    output = tmp_path / "out"
    written = []
    whole = preprocess.write_parquet

    def failing(path, *arguments, **options):
        if len(written) == 4:
            raise OSError(28, "No space left on device")
        written.append(path)
        whole(path, *arguments, **options)

    monkeypatch.setattr(preprocess, "write_parquet", failing)
    with pytest.raises(OSError, match="No space left"):
        preprocess_ranking(raw, output, SETTINGS, ClusterSettings(workers=1))
    assert not (output / "manifest.json").exists()
    monkeypatch.setattr(preprocess, "write_parquet", whole)
    kept = {path: path.stat().st_mtime_ns for path in written}
    preprocess_ranking(raw, output, SETTINGS, ClusterSettings(workers=1))
    assert {path: path.stat().st_mtime_ns for path in written} == kept
    assert all_bytes(output) == all_bytes(features)


def test_what_a_worker_that_died_was_writing_is_gone_at_the_end(
    raw, features, tmp_path, monkeypatch
):
    output = tmp_path / "out"
    whole = preprocess.write_parquet

    def beside_one_that_died(path, *arguments, **options):
        whole(path, *arguments, **options)
        temporary_path(path).write_bytes(b"PAR1")

    monkeypatch.setattr(preprocess, "write_parquet", beside_one_that_died)
    preprocess_ranking(raw, output, SETTINGS, ClusterSettings(workers=1))
    assert all_bytes(output) == all_bytes(features)


def test_other_settings_do_not_reuse_old_features(raw, tmp_path):
    output = tmp_path / "out"
    preprocess_ranking(raw, output, SETTINGS)
    changed = SETTINGS.model_copy(update={"workflow": RankingWorkflowSettings(freq_threshold=1)})
    preprocess_ranking(raw, output, changed)
    fresh = tmp_path / "fresh"
    preprocess_ranking(raw, fresh, changed)
    assert all_bytes(output) == all_bytes(fresh)


def test_a_folder_that_is_not_ingested_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no manifest\.json.*ingest"):
        preprocess_ranking(tmp_path / "in", tmp_path / "out")


def test_split_by_days_and_halves_of_the_last_day(raw, tmp_path):
    expectations = {"days": (720, 80, 400), "last_day_halves": (800, 200, 200)}
    for kind, expected in expectations.items():
        settings = RankingPreprocessSettings(split=SplitSettings(kind=kind, test_days=1, valid=0.1))
        found = preprocess_ranking(raw, tmp_path / kind, settings)["splits"]
        assert tuple(found[name]["rows"] for name in ("train", "valid", "test")) == expected


def test_a_split_that_leaves_nothing_is_refused(raw, tmp_path):
    settings = RankingPreprocessSettings(split=SplitSettings(kind="days", test_days=3))
    with pytest.raises(UserError, match=r"leaves no rows to train and valid \(train 0, valid 0, "):
        preprocess_ranking(raw, tmp_path / "out", settings)
