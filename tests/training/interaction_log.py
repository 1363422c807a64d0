"""A small log of what users chose, as feature Parquet, for tests of models of users and items."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from core.merlin import ColumnSchema, Schema, Tags
from training.interactions.histories import Histories, interaction_columns

USERS, ITEMS = 40, 30


def schema(explicit=False):
    kind = Tags.REGRESSION if explicit else Tags.BINARY_CLASSIFICATION

    def codes(name, count, tag):
        domain = {"domain": {"min": 0, "max": count - 1, "name": name}}
        return ColumnSchema(name, dtype="int32", properties=domain, tags=[tag, Tags.CATEGORICAL])

    return Schema(
        [
            codes("user_id", USERS, Tags.USER_ID),
            codes("item_id", ITEMS, Tags.ITEM_ID),
            ColumnSchema("rating", dtype="float32", tags=[Tags.TARGET, kind]),
            ColumnSchema("timestamp", dtype="float32", tags=[Tags.CONTINUOUS]),
        ]
    )


def write(folder, rows):
    """Rows of (user, item, rating)."""
    folder.mkdir(parents=True)
    users, items, ratings = (np.array(column) for column in zip(*rows, strict=True))
    table = {
        "user_id": users.astype("int32"),
        "item_id": items.astype("int32"),
        "rating": ratings.astype("float32"),
        "timestamp": np.zeros(len(rows), "float32"),
    }
    pq.write_table(pa.table(table), folder / "part-0.parquet")
    return folder


def taste(tmp_path, explicit=False):
    """Users like the items of their own half; later choices are of that half too."""
    rng = np.random.default_rng(0)
    splits = {"train": [], "valid": []}
    for user in range(3, USERS):
        mine = [i for i in range(3, ITEMS) if i % 2 == user % 2]
        chosen = rng.permutation(mine)[:9]
        for number, item in enumerate(chosen):
            splits["train" if number < 7 else "valid"].append((user, item, 4.0 if explicit else 1))
        for item in rng.permutation([i for i in range(3, ITEMS) if i % 2 != user % 2])[:3]:
            if not explicit:
                splits["train"].append((user, item, 0))
            else:
                splits["train"].append((user, item, 2.0))
    return {name: write(tmp_path / name, rows) for name, rows in splits.items()}


def histories(folder, explicit=False):
    return Histories([folder], schema(explicit), interaction_columns(schema(explicit), "mf"))
