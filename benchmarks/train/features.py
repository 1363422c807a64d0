"""Feature Parquet for the benchmarks, as ``preprocess`` writes it, and its schema."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from core.merlin import ColumnSchema, Schema, Tags

ROW_GROUP = 65_536
LABEL = "label"


def click_features(folder: Path, rows: int, tables: list[int], dense: int, bag: int = 1) -> Schema:
    """Writes ``folder/train`` with the *random* generator of ``pipeline.synthetic``, once.

    Args:
        tables: rows of each; ids are uniform, the hardest case for caches.
        dense: continuous columns.
        bag: ids a row and table; more than one makes list columns.
    """
    from pipeline.synthetic.random_ids import RandomGenerateSettings, generate_random

    made = {"rows": rows, "tables": tables, "dense": dense, "bag": bag}
    if _read_json(folder / "made.json") != made:
        shutil.rmtree(folder, ignore_errors=True)
        settings = RandomGenerateSettings(rows=rows, tables=tuple(tables), dense=dense, bag=bag)
        generate_random(settings, folder / "raw")
        (folder / "train").mkdir()
        for part in sorted((folder / "raw").glob("*.parquet")):
            pq.write_table(
                _features(pq.read_table(part), bag), folder / "train" / part.name, ROW_GROUP
            )
        shutil.rmtree(folder / "raw")
        (folder / "made.json").write_text(json.dumps(made))
    return click_schema(tables, dense, bag)


def click_schema(tables: list[int], dense: int, bag: int = 1) -> Schema:
    """``label``, ``I1…``, ``C1…`` with the tags that preprocess gives them."""
    target = ColumnSchema(LABEL, dtype="int8", tags=[Tags.TARGET, Tags.BINARY_CLASSIFICATION])
    numbers = [
        ColumnSchema(f"I{i + 1}", dtype="float32", tags=[Tags.CONTINUOUS]) for i in range(dense)
    ]
    return Schema(
        [target, *numbers, *(_codes(f"C{i + 1}", n, bag > 1) for i, n in enumerate(tables))]
    )


def session_features(folder: Path, sessions: list[np.ndarray], items: int) -> Schema:
    """Writes ``folder/train``: one list column of items."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "train").mkdir(parents=True)
    offsets = np.cumsum([0, *map(len, sessions)]).astype(np.int32)
    column = pa.ListArray.from_arrays(offsets, np.concatenate(sessions).astype(np.int32))
    pq.write_table(pa.table({"item_id": column}), folder / "train" / "part-0.parquet", ROW_GROUP)
    return Schema([_codes("item_id", items, True, Tags.ITEM_ID, Tags.ITEM)])


def _codes(name: str, codes: int, is_list: bool, *tags: Tags) -> ColumnSchema:
    return ColumnSchema(
        name,
        dtype="int32",
        tags=[Tags.CATEGORICAL, *([Tags.LIST] if is_list else []), *tags],
        is_list=is_list,
        is_ragged=is_list,
        properties={"domain": {"min": 0, "max": codes - 1, "name": name}},
    )


def _features(raw: pa.Table, bag: int) -> pa.Table:
    columns = {LABEL: raw[LABEL]}
    dense = raw["dense"].combine_chunks()
    matrix = dense.flatten().to_numpy().reshape(len(raw), -1)
    columns |= {f"I{i + 1}": pa.array(matrix[:, i]) for i in range(matrix.shape[1])}
    for name in (name for name in raw.column_names if name[0] == "C"):
        lists = raw[name].combine_chunks()
        ids = lists.flatten().cast(pa.int32())
        columns[name] = ids if bag == 1 else pa.ListArray.from_arrays(lists.offsets, ids)
    return pa.table(columns)


def _read_json(path: Path) -> dict | None:
    return json.loads(path.read_text()) if path.exists() else None
