"""Small session batches and schemas that the session tests share."""

from pathlib import Path

import pyarrow as pa
import torch

from core.artifacts import write_parquet
from core.merlin import ColumnSchema, Schema, Tags

ITEMS = 33
"""Codes of the item column: 0 padding, 1 null, 2 out of vocabulary, 3 to 32 items."""


def categorical(name: str, codes: int, *tags: Tags) -> ColumnSchema:
    """A list column of codes below ``codes``."""
    return ColumnSchema(
        name,
        tags=[Tags.CATEGORICAL, Tags.LIST, *tags],
        dtype="int32",
        is_list=True,
        is_ragged=True,
        properties={"domain": {"min": 0, "max": codes - 1, "name": name}},
    )


def session_schema(*side: str, items: int = ITEMS) -> Schema:
    """``item_id`` and, where named, ``category`` and ``price``, beside two scalar columns."""
    known = {
        "category": categorical("category", 9),
        "price": ColumnSchema(
            "price",
            tags=[Tags.CONTINUOUS, Tags.LIST],
            dtype="float32",
            is_list=True,
            is_ragged=True,
        ),
    }
    item = categorical("item_id", items, Tags.ITEM_ID, Tags.ITEM)
    scalars = [ColumnSchema("session_id", dtype="int64"), ColumnSchema("start", dtype="int64")]
    return Schema([item, *(known[name] for name in side), *scalars])


def batch_of(sessions: list[list[int]], seed: int = 0):
    """A loader's batch: the items as given, with a category and a price for every event."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([0, *map(len, sessions)])
    offsets = lengths.cumsum(0)
    events = int(offsets[-1])
    inputs = {
        "item_id__values": torch.tensor([item for session in sessions for item in session]).int(),
        "category__values": torch.randint(3, 9, (events,), generator=generator, dtype=torch.int32),
        "price__values": torch.randn(events, generator=generator),
    }
    inputs |= {f"{name}__offsets": offsets for name in ("item_id", "category", "price")}
    return inputs, None


def random_sessions(count: int, longest: int = 9, seed: int = 0) -> list[list[int]]:
    """Sessions of 2 to ``longest`` items without immediate repeats."""
    generator = torch.Generator().manual_seed(seed)
    sessions = []
    for length in torch.randint(2, longest + 1, (count,), generator=generator).tolist():
        steps = torch.randint(1, ITEMS - 3, (length,), generator=generator).cumsum(0)
        sessions.append((steps % (ITEMS - 3) + 3).tolist())
    return sessions


def write_sessions(folder: Path, sessions: list[list[int]], seed: int = 0) -> None:
    """One feature Parquet file as the sessions workflow writes it."""
    inputs, _ = batch_of(sessions, seed)
    columns = {
        name: pa.ListArray.from_arrays(
            pa.array(inputs[f"{name}__offsets"].int().numpy()),
            pa.array(inputs[f"{name}__values"].numpy()),
        )
        for name in ("item_id", "category", "price")
    }
    count = len(sessions)
    scalars = {name: pa.array(range(count), pa.int64()) for name in ("session_id", "start")}
    write_parquet(folder / "part-00000.parquet", pa.table({**columns, **scalars}))
