"""Two small click logs for ``benchmarks.defaults``: MovieLens ratings as clicks, and a made one.

    python -m benchmarks.click_logs --movielens ml-latest-small --output work/logs

writes ``movielens.csv`` (a rating of 4 or more is a click; in the order of time), ``own.csv``
(50,000 rows, whose clicks depend mostly on single columns and a little on pairs of user and item),
and next to each the settings that read it.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

SETTINGS = """ranking:
  source:
    path: {path}
    columns: {{labels: [{label}], categorical: [{codes}], continuous: [{numbers}]}}
"""
ROWS, USERS, ITEMS = 50_000, 4000, 1500


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--movielens", type=Path, required=True, help="folder with ratings.csv")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    log = movielens(options.movielens)
    write(log, options.output / "movielens.csv", ["user", "movie", "genre", "hour"])
    write(made(), options.output / "own.csv", ["user", "item", "page", "ad", "city", "hour"])


def write(log: pd.DataFrame, path: Path, codes: list[str]) -> None:
    """The log as CSV, and its settings: the first column is the label, the rest are numbers."""
    log.to_csv(path, index=False)
    label, *columns = log.columns
    numbers = [name for name in columns if name not in codes]
    text = {"path": path, "label": label, "codes": ", ".join(codes), "numbers": ", ".join(numbers)}
    path.with_suffix(".yaml").write_text(SETTINGS.format(**text), encoding="utf-8")


def movielens(folder: Path) -> pd.DataFrame:
    """Ratings with the movie's first genre, its year, and its age when it was rated."""
    ratings = pd.read_csv(folder / "ratings.csv").sort_values(["timestamp", "userId", "movieId"])
    log = ratings.merge(pd.read_csv(folder / "movies.csv"), on="movieId", how="left")
    year = log["title"].str.extract(r"\((\d{4})\)\s*$")[0].astype(float)
    columns = {
        "liked": (log["rating"] >= 4).astype(int),
        "user": log["userId"],
        "movie": log["movieId"],
        "genre": log["genres"].str.split("|").str[0],
        "year": year,
        "hour": (log["timestamp"] // 3600) % 24,
        "age": 1970 + log["timestamp"] / 86400 / 365.25 - year,
    }
    return pd.DataFrame(columns)


def made(seed: int = 7) -> pd.DataFrame:
    """Clicks by a sum of effects of codes and numbers, and by dot products of users and items."""
    rng = np.random.default_rng(seed)

    def drawn(size: int, power: float) -> np.ndarray:
        chances = 1 / np.arange(1, size + 1) ** power
        return rng.choice(size, ROWS, p=chances / chances.sum())

    user, item, page = drawn(USERS, 0.7), drawn(ITEMS, 0.9), drawn(60, 1.0)
    ad, city = drawn(300, 0.9), drawn(800, 0.8)
    hour, price = rng.integers(0, 24, ROWS), np.exp(rng.normal(3, 1, ROWS))
    depth = rng.poisson(4, ROWS)
    logit = -1.75 + rng.normal(0, 0.6, USERS)[user] + rng.normal(0, 0.6, ITEMS)[item]
    logit += rng.normal(0, 0.4, 60)[page] + rng.normal(0, 0.4, 300)[ad]
    logit += rng.normal(0, 0.2, 800)[city] - 0.15 * (np.log(price) - 3) + 0.03 * (depth - 4)
    logit += 0.2 * np.sin(hour / 24 * 2 * np.pi)
    users, items = rng.normal(0, 0.35, (USERS, 3)), rng.normal(0, 0.45, (ITEMS, 3))
    logit += (users[user] * items[item]).sum(1)
    columns = {
        "clicked": (rng.random(ROWS) < 1 / (1 + np.exp(-logit))).astype(int),
        "user": [f"u{number}" for number in user],
        "item": [f"i{number}" for number in item],
        "page": [f"p{number}" for number in page],
        "ad": ad,
        "city": [f"c{number}" for number in city],
        "hour": hour,
        "price": price.round(2),
        "depth": depth,
    }
    return pd.DataFrame(columns)


if __name__ == "__main__":
    main()
