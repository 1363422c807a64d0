"""Small raw logs and settings that use every operator, for both sides of a comparison."""

import numpy as np
import polars as pl

from pipeline.preprocess_interactions import preprocess_interactions
from pipeline.preprocess_ranking import RankingPreprocessSettings, preprocess_ranking
from pipeline.preprocess_sessions import SessionsPreprocessSettings, preprocess_sessions
from pipeline.sessionize import SessionizeSettings
from pipeline.splits import SplitSettings
from tests.pipeline.test_interactions import SETTINGS as RATED
from tests.pipeline.test_interactions import make_ratings
from tests.pipeline.test_preprocess_ranking import write_raw as write_clicks
from tests.pipeline.test_preprocess_sessions import make_events, write_raw
from workflows.ranking import RankingWorkflowSettings
from workflows.sessions import SessionsWorkflowSettings

SPLIT = SplitSettings(test=0.25, valid=0.2)
RANKING = {
    "plain": RankingWorkflowSettings(freq_threshold=3),
    "every operator": RankingWorkflowSettings(
        freq_threshold=2,
        num_buckets=3,
        max_size=300,
        missing_indicators=True,
        dense_levels=True,
        target_encoding=("C1", "C9"),
        target_crosses=(("C1", "C9"), ("C3", "I2")),
        counts=("C2",),
        hashing={"C4": 50},
        shared_vocabularies=(("C6", "C7"),),
        crosses=({"columns": ("C2", "C5"), "buckets": 100},),
        columns={
            "I2": {"missing": "median", "clip_max": 20.0},
            "I3": {"scale": "minmax", "bucketize": (0.0, 5.0, 50.0)},
            "I4": {"transform": "none", "clip_min": None, "scale": "none"},
        },
    ),
}


def clicks(folder, output, how, cluster):
    """Raw clicks → features; ``how`` is one of RANKING."""
    if not (folder / "manifest.json").exists():
        write_clicks(folder)
    settings = RankingPreprocessSettings(split=SPLIT, workflow=RANKING[how], rows_per_part=170)
    preprocess_ranking(folder, output, settings, cluster)
    return output


def own_clicks(folder, output, how, cluster):
    """A raw click log with columns of its own → features."""
    if not (folder / "manifest.json").exists():
        rng = np.random.default_rng(2)
        pages = [f"page {n}" if n % 9 else None for n in rng.zipf(1.5, 600) % 40]
        users = [int(n) - 5 if n % 7 else None for n in rng.zipf(1.5, 600) % 30]
        prices = [float(n) if n > -1 else None for n in rng.normal(size=600)]
        vectors = [rng.normal(size=2).tolist() if n % 5 else None for n in range(600)]
        genres = [
            [f"genre {at}" for at in rng.integers(0, 9, n % 5)] if n % 8 else None
            for n in range(600)
        ]
        tags = [rng.zipf(1.5, n % 4).tolist() for n in range(600)]
        columns = {
            "genres": pl.Series(genres, dtype=pl.List(pl.String)),
            "tags": pl.Series(tags, dtype=pl.List(pl.Int64)),
            "click": pl.Series(rng.integers(0, 2, 600), dtype=pl.Int8),
            "buy": pl.Series(rng.integers(0, 2, 600), dtype=pl.Int8),
            "page": pl.Series(pages, dtype=pl.String),
            "user": pl.Series(users, dtype=pl.Int64),
            "price": pl.Series(prices, dtype=pl.Float32),
            "title": pl.Series(vectors, dtype=pl.List(pl.Float32)),
        }
        write_raw(folder, pl.DataFrame(columns), 3)
    workflow = RankingWorkflowSettings(
        labels=("click", "buy"),
        categorical=("page", "user"),
        continuous=("price",),
        multi_valued=("genres", "tags"),
        max_values=3,
        columns={"tags": {"num_buckets": 2}},
        vectors={"title": 2},
        dense_missing="median",
        dense_transform="none",
        freq_threshold=2,
        target_encoding=("page",),
        target_crosses=(("page", "price"), ("page", "user")),
        crosses=(("page", "user"),),
    )
    settings = RankingPreprocessSettings(split=SPLIT, workflow=workflow, rows_per_part=170)
    preprocess_ranking(folder, output, settings, cluster)
    return output


def events(folder, output, how, cluster):
    """Raw events → sessions; ``how``: ``text`` or ``numbers`` for what the ids are."""
    if not (folder / "manifest.json").exists():
        found = make_events(sessions=150, text_ids=how == "text")
        rng = np.random.default_rng(1)
        vectors = [
            None if rng.random() < 0.2 else rng.normal(size=3).tolist() for _ in found.rows()
        ]
        shops = [f"shop {n % 7}" if n % 5 else None for n in range(len(found))]
        more = [
            pl.Series("vector", vectors, pl.List(pl.Float32)),
            pl.Series("shop", shops, pl.String),
        ]
        write_raw(folder, found.with_columns(more))
    settings = SessionsPreprocessSettings(
        split=SPLIT,
        sessions=SessionizeSettings(min_item_support=2, max_length=6),
        workflow=SessionsWorkflowSettings(
            categorical=("category", "shop"),
            vectors={"vector": 3},
            hashing={"shop": 40},
            item_freq_threshold=2,
            columns={"price": {"bucketize": (3.0, 9.0)}},
        ),
        events_per_part=150,
    )
    preprocess_sessions(folder, output, settings, cluster)
    return output


def ratings(folder, output, how, cluster):
    """Raw ratings → features."""
    if not (folder / "manifest.json").exists():
        write_raw(folder, make_ratings())
    preprocess_interactions(folder, output, RATED, cluster)
    return output


ROADS = [
    (clicks, "plain"),
    (clicks, "every operator"),
    (own_clicks, "all"),
    (events, "text"),
    (events, "numbers"),
    (ratings, "all"),
]
