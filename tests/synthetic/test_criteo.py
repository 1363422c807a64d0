"""The synthetic click log: its format, its determinism, and what its manifest says."""

import gzip
import json
import re

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from core.errors import UserError
from core.settings import validate
from pipeline.synthetic.bayes import bayes_scores
from pipeline.synthetic.criteo import CriteoGenerateSettings, generate_criteo
from pipeline.synthetic.criteo_teacher import CATEGORIES, zipf_rank

LINE = re.compile(rb"[01](\t(-?(0|[1-9]\d*))?){13}(\t([0-9a-f]{8})?){26}\n")
SETTINGS = CriteoGenerateSettings(rows=20_003, days=3, seed=7, threads=2)


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    folder = tmp_path_factory.mktemp("criteo")
    return folder, generate_criteo(SETTINGS, folder)


def lines(folder):
    return [line for day in range(3) for line in (folder / f"log/day_{day}").open("rb")]


def same_text(one, other):
    return all(
        (one / f"log/day_{d}").read_bytes() == (other / f"log/day_{d}").read_bytes() for d in (0, 1)
    )


def test_every_line_is_criteo_format(log):
    folder, _ = log
    every = lines(folder)
    assert len(every) == 20_003
    assert all(LINE.fullmatch(line) for line in every)
    second = [line.split(b"\t")[2] for line in every]
    assert min(int(x) for x in second if x) == -3
    rates = np.mean([[field.strip() == b"" for field in line.split(b"\t")] for line in every], 0)
    assert rates[1] == pytest.approx(0.45, abs=0.02) and rates[35] == pytest.approx(0.76, abs=0.02)


def test_same_seed_same_bytes_whatever_the_chunks_and_threads(log, tmp_path):
    folder, manifest = log
    other = SETTINGS.model_copy(update={"chunk_rows": 777, "threads": 1})
    bayes = generate_criteo(other, tmp_path)["bayes"]
    assert bayes["all"] == pytest.approx(manifest["bayes"]["all"])
    assert same_text(folder, tmp_path)
    assert pq.read_table(folder / "truth.parquet") == pq.read_table(tmp_path / "truth.parquet")


def test_another_seed_another_log(log, tmp_path):
    generate_criteo(SETTINGS.model_copy(update={"seed": 8}), tmp_path)
    assert not same_text(log[0], tmp_path)


def test_gzip_holds_the_same_text_and_is_deterministic(log, tmp_path):
    packed = SETTINGS.model_copy(update={"gzip": True})
    generate_criteo(packed, tmp_path / "a")
    generate_criteo(packed, tmp_path / "b")
    blob = (tmp_path / "a" / "log/day_1.gz").read_bytes()
    assert blob == (tmp_path / "b" / "log/day_1.gz").read_bytes()
    assert gzip.decompress(blob) == (log[0] / "log/day_1").read_bytes()


def test_manifest_agrees_with_sklearn_and_with_the_labels_on_disk(log):
    folder, manifest = log
    truth = pl.read_parquet(folder / "truth.parquet")
    p, y = truth["probability"].to_numpy().astype(float), truth["label"].to_numpy()
    assert [int(line[:1]) for line in lines(folder)] == y.tolist()
    tail = manifest["bayes"]["tail"]
    parts = {"all": truth["day"] >= 0, "last_day": truth["day"] == 2}
    parts["tail"] = pl.Series(np.arange(len(p)) >= tail["first_row"])
    for name, chosen in parts.items():
        chosen = chosen.to_numpy()
        scores = manifest["bayes"][name]
        assert scores["rows"] == chosen.sum()
        assert scores["auc"] == pytest.approx(roc_auc_score(y[chosen], p[chosen]), abs=1e-6)
        assert scores["logloss"] == pytest.approx(log_loss(y[chosen], p[chosen]), abs=1e-9)
    exact = bayes_scores(p[tail["first_row"] :], y[tail["first_row"] :])
    assert exact == pytest.approx({key: tail[key] for key in exact}, abs=1e-6)
    assert json.loads((folder / "manifest.json").read_text()) == manifest


def test_clicks_come_as_the_truth_says(log):
    folder, manifest = log
    p = pl.read_parquet(folder / "truth.parquet")["probability"].to_numpy()
    sigma = np.sqrt((p * (1 - p)).sum()) / len(p)
    assert abs(manifest["positive_rate"] - p.mean()) < 4 * sigma
    assert p.mean() == pytest.approx(0.25, abs=0.01)
    assert manifest["bayes"]["all"]["expected_auc"] == pytest.approx(0.81, abs=0.01)
    truth = pl.read_parquet(folder / "truth.parquet")
    # Calibrated within each band of probability, not only on the whole.
    bands = truth.group_by((pl.col("probability") * 10).cast(pl.Int8)).agg(
        pl.col("label").mean().alias("rate"), pl.col("probability").mean().alias("p"), pl.len()
    )
    bands = bands.with_columns(z=(pl.col("rate") - pl.col("p")) * pl.col("len").sqrt())
    assert bands.filter(pl.col("len") > 100)["z"].abs().max() < 2.0


def test_growing_columns_get_frequent_new_values_on_later_days(log):
    every = [line.rstrip(b"\n").split(b"\t") for line in lines(log[0])]
    days, size = [every[:6667], every[6667:13335], every[13335:]], len(every)
    assert sum(map(len, days)) == size
    for column in np.flatnonzero(CATEGORIES[:, 6]):
        old = {row[14 + column] for day in days[:2] for row in day}
        new, counts = np.unique(
            [row[14 + column] for row in days[2] if row[14 + column] not in old],
            return_counts=True,
        )
        assert len(new) and counts.max() >= 5


def test_zipf_ranks_follow_the_stated_law():
    size, exponent, offset = 30, 1.3, 2.0
    u = (np.arange(200_000) + 0.5) / 200_000
    ranks = np.array([zipf_rank(x, size, exponent, offset) for x in u])
    edges = (np.arange(size + 1) + offset) ** (1 - exponent)
    expected = np.diff(edges) / (edges[-1] - edges[0])
    assert np.bincount(ranks, minlength=size) / len(u) == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"rows": 2, "days": 3}, "rows must be at least days"),
        ({"row": 2}, "did you mean 'rows'"),
        ({"linear_share": 0, "pair_share": 0, "dense_share": 0}, "must not all be 0"),
    ],
)
def test_wrong_settings_are_explained(tree, message):
    with pytest.raises(UserError, match=message):
        validate(CriteoGenerateSettings, tree, "params.yaml")
