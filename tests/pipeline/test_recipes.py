"""Recipes of known logs on small logs with the columns that their publishers ship."""

import datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from core.artifacts import read_json
from pipeline.__main__ import main
from pipeline.params import Params

RECIPES = Path(__file__).parents[2] / "recipes"
START = datetime.datetime(2019, 10, 1, tzinfo=datetime.UTC)
SESSIONS = 300


def events(rng):
    """Session, step and time of each event, sessions side by side over four days."""
    for session in range(SESSIONS):
        begin = START + datetime.timedelta(minutes=19 * session)
        for step in range(int(rng.integers(2, 6))):
            yield session, step, begin + datetime.timedelta(seconds=61.25 * step)


def rees46(folder, rng):
    lines = [
        "event_time,event_type,product_id,category_id,category_code,brand,price,user_id,user_session"
    ]
    for session, step, at in events(rng):
        item = int(rng.zipf(1.5) % 15)
        kind = "view" if step else "cart"
        brand, code = ("", "") if item == 3 else (f"brand {item % 4}", "electronics.smartphone")
        lines.append(
            f"{at:%Y-%m-%d %H:%M:%S} UTC,{kind},{44600062 + item},{2103807459595387724 + item % 3},"
            f"{code},{brand},{35.79 + item},{541312140 + session},{session:08x}-27dc-4c4f-bc33"
        )
    (folder / "2019-Oct.csv").write_text("\n".join(lines) + "\n")


def yoochoose(folder, rng):
    lines = []
    for session, _, at in events(rng):
        item = int(rng.zipf(1.5) % 15)
        category = ["S", "0", "3", "2089538"][item % 4]
        at = f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03d}Z"
        lines.append(f"{session + 1},{at},{214536502 + item},{category}")
    (folder / "yoochoose-clicks.dat").write_text("\n".join(lines) + "\n")


def movielens(folder, rng):
    lines = ["userId,movieId,rating,timestamp"]
    for session, step, at in events(rng):
        rating = rng.integers(1, 11) / 2
        lines.append(f"{session % 50 + 1},{session + step},{rating},{int(at.timestamp())}")
    (folder / "ratings.csv").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("recipe", "file", "made", "columns"),
    [
        ("sessions", "rees46", rees46, {"category": "int64", "category_code": "string"}),
        ("sessions", "yoochoose", yoochoose, {"item_id": "int64", "category": "string"}),
        ("interactions", "movielens", movielens, {"rating": "float", "item_id": "int64"}),
        ("sessions", "movielens-sequences", movielens, {"item_id": "int64"}),
    ],
)
def test_a_recipe_fits_the_columns_as_published(tmp_path, recipe, file, made, columns):
    log = tmp_path / "log"
    log.mkdir()
    made(log, np.random.default_rng(0))
    settings = ["--settings", str(RECIPES / f"{file}.yaml")]
    raw, out = str(tmp_path / "raw"), str(tmp_path / "out")
    assert main(["ingest", recipe, "--input", str(log), "--output", raw, *settings]) == 0
    assert main(["preprocess", recipe, "--input", raw, "--output", out, *settings]) == 0
    manifest = read_json(tmp_path / "raw" / "manifest.json")
    assert manifest["rows_quarantined"] == 0
    assert columns.items() <= manifest["columns"].items()
    times = pl.read_parquet(tmp_path / "raw" / "part-00000.parquet")["timestamp"]
    assert times.min() == START and (times.max() - START).days == 3
    made_of = read_json(tmp_path / "out" / "manifest.json")
    assert all(split[made_of["unit"]] for split in made_of["splits"].values())


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_is_valid(path):
    Params.read([path]).check()
