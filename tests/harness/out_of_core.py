"""Trains and evaluates a DLRM whose tables are larger than the memory that its process may have.

``python -m tests.harness.out_of_core`` runs three processes on one click log and prints what
became of each: tables in memory without a limit; the same under a limit that they do not fit;
tables out of core under that limit, which must end with the same loss, bit for bit.

The limit is the operating system's own for a process's private memory (RLIMIT_DATA), set to what
the process holds before it builds the model plus ``--headroom``.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from core import console

if TYPE_CHECKING:
    from core.merlin import Schema

COLUMNS = 4
DIM = 16
NO_ROOM = "can't allocate memory"
CHILD = "import sys; from tests.harness.out_of_core import child; child(*sys.argv[1:])"


class Outcome(NamedTuple):
    """How one process ended."""

    losses: dict[str, float]
    """By split; empty where it could not train."""
    error: str


def write_log(folder: Path, table_rows: int, rows: int) -> None:
    """Feature Parquet whose ids are spread over all rows of the tables."""
    for split, seed in (("train", 1), ("valid", 2)):
        rng = np.random.default_rng(seed)
        ids = {f"C{i}": rng.integers(0, table_rows, rows, "int32") for i in range(COLUMNS)}
        number = rng.random(rows, "float32")
        label = (rng.random(rows) < number).astype("int8")
        (folder / split).mkdir(parents=True)
        table = pa.table({"label": label, "I": number, **ids})
        pq.write_table(table, folder / split / "part-00000.parquet")


def child(folder: str, scratch: str, table_rows: str, headroom_mb: str) -> None:
    """Trains and evaluates; prints the losses as JSON. ``headroom_mb`` 0: no limit."""
    warm_up = Path(folder) / "warm-up"
    if not warm_up.exists():
        write_log(warm_up, 100, 300)
    # Whatever is loaded or compiled at the first training is not what the limit is about.
    trained(warm_up, scratch, 100)
    if int(headroom_mb):
        limit = private_bytes() + int(headroom_mb) * 2**20
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    print(json.dumps(trained(Path(folder), scratch, int(table_rows))))


def trained(folder: Path, scratch: str, table_rows: int) -> dict[str, float]:
    """The losses of a DLRM that was trained on the log in ``folder``."""
    from training import ranking
    from training.batches import Batches
    from training.engine import EngineSettings, evaluate, fit
    from training.ranking.dlrm import DLRMSettings
    from training.tables.storage import tables_in

    schema = schema_of(table_rows)
    settings = EngineSettings(
        epochs=2, batch_size=256, seed=1, patience=None, tables_out_of_core=bool(scratch)
    )
    train = Batches(folder / "train", schema, settings.batch_size, seed=1)
    valid = Batches(folder / "valid", schema, 1024, shuffle=False)
    with tempfile.TemporaryDirectory(dir=folder) as output, tables_in(scratch or None):
        model = ranking.build("dlrm", schema, DLRMSettings(embedding_dim=DIM), seed=1)
        fit(model, train, valid, settings, output)
        return {split.folder.name: evaluate(model, split)["logloss"] for split in (train, valid)}


def schema_of(table_rows: int) -> "Schema":
    """The schema of :func:`write_log`'s columns."""
    from core.merlin import ColumnSchema, Schema, Tags

    target = ColumnSchema("label", dtype="int8", tags=[Tags.TARGET, Tags.BINARY_CLASSIFICATION])
    number = ColumnSchema("I", dtype="float32", tags=[Tags.CONTINUOUS])
    names = [f"C{i}" for i in range(COLUMNS)]
    ids = [
        ColumnSchema(
            name,
            dtype="int32",
            tags=[Tags.CATEGORICAL],
            properties={"domain": {"min": 0, "max": table_rows - 1, "name": name}},
        )
        for name in names
    ]
    return Schema([target, number, *ids])


def private_bytes() -> int:
    """What RLIMIT_DATA counts: private writable memory."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no VmData in /proc/self/status")


def outcome(folder: Path, scratch: str, table_rows: int, headroom_mb: int) -> Outcome:
    """Runs one process."""
    command = [sys.executable, "-c", CHILD, str(folder), scratch, str(table_rows), str(headroom_mb)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return Outcome(json.loads(done.stdout.splitlines()[-1]), "")
    return Outcome({}, done.stderr)


def run(folder: Path, tables_mb: int, headroom_mb: int, rows: int) -> dict[str, Outcome]:
    """The three processes on one log."""
    table_rows = tables_mb * 2**20 // (4 * DIM * COLUMNS)
    write_log(folder, table_rows, rows)
    return {
        "in memory, no limit": outcome(folder, "", table_rows, 0),
        "in memory, limit": outcome(folder, "", table_rows, headroom_mb),
        "out of core, limit": outcome(folder, str(folder), table_rows, headroom_mb),
    }


def main() -> None:
    """Prints a table; ends with 1 where a process did not end as it should."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tables-mb", type=int, default=1536, help="size of all tables")
    parser.add_argument("--headroom-mb", type=int, default=512, help="memory left for the model")
    parser.add_argument("--rows", type=int, default=20_000, help="rows of the log, each split")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        outcomes = run(Path(folder), asked.tables_mb, asked.headroom_mb, asked.rows)
    rows = [
        [name, *(f"{found.losses[split]:.9f}" for split in ("train", "valid")), ""]
        if found.losses
        else [name, "-", "-", NO_ROOM if NO_ROOM in found.error else found.error[-200:]]
        for name, found in outcomes.items()
    ]
    title = (
        f"tables of {asked.tables_mb} MB and Adagrad's sums, as large again; "
        f"limit: {asked.headroom_mb} MB more than the process held before"
    )
    console.table(title, ["tables", "train logloss", "valid logloss", "ended with"], rows)
    sys.exit(0 if as_it_should(outcomes) else 1)


def as_it_should(outcomes: dict[str, Outcome]) -> bool:
    """Whether the limit stops tables in memory, and out of core gives the same losses."""
    free, limited, mapped = outcomes.values()
    same = bool(free.losses) and free.losses == mapped.losses
    return same and not limited.losses and NO_ROOM in limited.error


if __name__ == "__main__":
    main()
