"""A small learnable click log as feature Parquet, for the tests of training."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from core.merlin import ColumnSchema, Schema, Tags

CARDINALITY = 20


def schema(dense: int = 3, categorical: int = 4) -> Schema:
    """Columns as preprocess writes them: ``label``, ``I1…``, ``C1…``."""
    target = ColumnSchema("label", dtype="int8", tags=[Tags.TARGET, Tags.BINARY_CLASSIFICATION])
    numbers = [
        ColumnSchema(f"I{i}", dtype="float32", tags=[Tags.CONTINUOUS]) for i in range(1, dense + 1)
    ]
    ids = [
        ColumnSchema(
            f"C{i}",
            dtype="int32",
            tags=[Tags.CATEGORICAL],
            properties={"domain": {"min": 0, "max": CARDINALITY - 1, "name": f"C{i}"}},
        )
        for i in range(1, categorical + 1)
    ]
    return Schema([target, *numbers, *ids])


def table(rows: int, seed: int, dense: int = 3, categorical: int = 4) -> pa.Table:
    """Rows whose clicks depend on a number, on an id, and on a pair of them."""
    rng = np.random.default_rng(seed)
    numbers = {f"I{i}": rng.normal(size=rows).astype("float32") for i in range(1, dense + 1)}
    ids = {f"C{i}": rng.integers(1, CARDINALITY, rows, "int32") for i in range(1, categorical + 1)}
    logit = numbers["I1"] + 0.2 * (ids["C1"] - 10) - 0.5 + (ids["C1"] % 2) * (ids["C2"] % 2)
    label = (rng.random(rows) < 1 / (1 + np.exp(-logit))).astype("int8")
    return pa.table({"label": label, **numbers, **ids})


def richer_schema() -> Schema:
    """That of :func:`richer_table`."""
    lists = ColumnSchema(
        "L1",
        dtype="int32",
        tags=[Tags.CATEGORICAL, Tags.LIST],
        properties={"domain": {"min": 0, "max": CARDINALITY - 1, "name": "L1"}},
        is_list=True,
        is_ragged=True,
    )
    cart = ColumnSchema("cart", dtype="int8", tags=[Tags.TARGET, Tags.BINARY_CLASSIFICATION])
    return Schema([*schema(), lists, cart])


def richer_table(rows: int, seed: int) -> pa.Table:
    """:func:`table` with lists of none to four ids, ``L1``, and a second label, ``cart``."""
    rng, plain = np.random.default_rng(seed), table(rows, seed)
    lists = [rng.integers(1, CARDINALITY, rng.integers(0, 5)).tolist() for _ in range(rows)]
    cart = plain["label"].to_numpy() * (rng.random(rows) < 0.5)
    plain = plain.append_column("L1", pa.array(lists, pa.list_(pa.int32())))
    return plain.append_column("cart", pa.array(cart, pa.int8()))


def write(folder: Path, rows: int, seed: int, files: int = 2, make=table) -> Path:
    """``rows`` rows of ``make`` in ``files`` files of row groups of 64."""
    folder.mkdir(parents=True)
    whole = make(rows, seed)
    for part in range(files):
        low, high = rows * part // files, rows * (part + 1) // files
        path = folder / f"part-{part:05d}.parquet"
        pq.write_table(whole.slice(low, high - low), path, row_group_size=64)
    return folder
