"""What preprocessing says of labels and splits that metrics cannot be trusted on."""

import re

import numpy as np
import polars as pl
import pytest

from core.cluster import ClusterSettings
from pipeline.doubts import joined_targets
from pipeline.preprocess_interactions import (
    InteractionsPreprocessSettings,
    preprocess_interactions,
)
from pipeline.preprocess_ranking import RankingPreprocessSettings, preprocess_ranking
from pipeline.splits import SplitSettings
from pipeline.stages.preprocess import preprocess
from tests.pipeline.test_click_times import ingested, made_rows, rows_of, settings_for
from tests.pipeline.test_interactions import make_ratings
from tests.pipeline.test_preprocess_sessions import make_events, write_raw

ONE = ClusterSettings(workers=1)
SPLIT = {"kind": "fraction", "test": 0.3, "valid": 0.3}


def expected_warnings(clicks):
    """By the definition: of each split the clicks of its rows."""
    warnings = []
    if len({*clicks["train"]}) == 1:
        warnings.append("click is .* in all .* rows that train")
    for split in ("valid", "test"):
        mine = clicks[split]
        if len(mine) < 200:
            warnings.append(f"the {split} split has only {len(mine)} rows")
        least, value = min((sum(mine), 1), (len(mine) - sum(mine), 0))
        if least == 0:
            warnings.append(f"the {split} split has no row with click = {value} ")
        elif least < 30:
            warnings.append(
                f"the {split} split has only {least} of {len(mine)} rows with click = {value}"
            )
    return warnings


@pytest.mark.parametrize("seed", range(6))
def test_classes_of_a_click_log_are_counted_in_every_split(tmp_path, seed):
    rng = np.random.default_rng(seed)
    rows = pl.concat([made_rows(seed)] * (1 + seed % 3)).with_columns(click=0)
    rate = [0, 0.5, 0.02, 1, 0.1][seed % 5]
    clicks = (rng.random(len(rows)) < rate).astype(int)
    if seed > 4:  # All clicks come early, or all late.
        clicks[np.argsort(rows["at"].to_numpy())[:: 1 if seed % 2 else -1][: len(rows) // 2]] = 0
    rows = rows.with_columns(click=pl.Series(clicks), n=np.arange(len(rows)))
    features = tmp_path / "out"
    made = preprocess_ranking(
        ingested(tmp_path, rows, rows_per_shard=900), features, settings_for(SPLIT, 5000), ONE
    )
    of_split = {name: [int(clicks[n]) for n in rows_of(features, name)] for name in made["splits"]}
    expected = expected_warnings(of_split)
    assert len(made["warnings"]) == len(expected)
    for pattern in expected:
        assert any(re.match(pattern, warning) for warning in made["warnings"]), pattern


def test_a_large_enough_log_has_no_warnings(tmp_path, capsys):
    rows = pl.concat([made_rows(0)] * 4).with_row_index("n_").with_columns(n="n_").drop("n_")
    raw = ingested(tmp_path, rows.select("at", "hour", "n", "click"), rows_per_shard=900)
    made = preprocess_ranking(raw, tmp_path / "out", settings_for(SPLIT, 5000), ONE)
    assert made["warnings"] == []


@pytest.mark.parametrize("threshold", [1, 5])
def test_a_column_of_rare_values_is_named(tmp_path, threshold):
    """Whatever its name: that of an item does not make all values one item."""
    rows = pl.DataFrame({"click": [0, 1] * 50, "page": [1, 2] * 50, "item_id": range(100)})
    rows = rows.with_columns(pl.col("click").cast(pl.Int8))
    raw = write_raw(tmp_path / "raw", rows)
    columns = {"labels": ["click"], "categorical": ["page", "item_id"], "continuous": []}
    settings = RankingPreprocessSettings(
        split=SplitSettings(test=0, valid=0), workflow={**columns, "freq_threshold": threshold}
    )
    made = preprocess_ranking(raw, tmp_path / "out", settings, ONE)
    named = [warning for warning in made["warnings"] if warning.startswith("item_id: no value")]
    assert len(named) == (threshold > 1) and named == made["warnings"]


@pytest.mark.parametrize("sessions", [40, 1400])
def test_small_splits_of_sessions_are_warned_of(tmp_path, capsys, sessions):
    raw = write_raw(tmp_path / "raw", make_events(sessions))
    made = preprocess("sessions", raw, tmp_path / "out")
    output = " ".join(capsys.readouterr().out.split())
    small = [name for name in ("valid", "test") if made["splits"][name]["sessions"] < 200]
    assert ("test" in small) == (sessions == 40)
    for name in ("valid", "test"):
        count = made["splits"][name]["sessions"]
        assert (f"the {name} split has only {count} sessions" in output) == (name in small)


def test_ratings_of_one_value_are_warned_of(tmp_path):
    ratings = make_ratings(3000).with_columns(rating=pl.lit(5.0, pl.Float32))
    settings = InteractionsPreprocessSettings(split=SplitSettings())
    made = preprocess_interactions(write_raw(tmp_path / "raw", ratings), tmp_path / "o", settings)
    assert made["warnings"] == [
        "rating is 5 in all 2,160 rows that train: there is nothing to learn from it; check the "
        "column and how it is read"
    ]


def test_targets_of_parts_are_joined():
    rng = np.random.default_rng(0)
    for _ in range(200):
        parts = [rng.integers(-1, 3, rng.integers(1, 5)) for _ in range(rng.integers(1, 4))]
        targets = [
            {"t": {"min": p.min(), "max": p.max(), "ones": int((p == 1).sum())}} for p in parts
        ]
        whole = np.concatenate(parts)
        expected = {"min": whole.min(), "max": whole.max(), "ones": (whole == 1).sum()}
        assert joined_targets(targets) == {"t": expected}
