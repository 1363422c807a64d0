"""The loaders alone, and what a training step waits for ours."""

import argparse
import shutil
import time
from collections.abc import Iterator
from typing import Any

from benchmarks.train.dlrm import COLUMNS, DENSE, our_model
from benchmarks.train.features import click_features
from benchmarks.train.rounds import Way, alternate, summary
from core.console import say
from core.merlin import Dataset, torch_loader
from training.batches import Batch, Batches
from training.engine import fit
from training.engine_settings import EngineSettings

TABLE_ROWS = 1_000_000


class Watched(Batches):
    """Batches that count the seconds in which the training loop waits for them."""

    waited = 0.0

    def __iter__(self) -> Iterator[Batch]:
        batches = super().__iter__()
        while True:
            began = time.perf_counter()
            batch = next(batches, None)
            self.waited += time.perf_counter() - began
            if batch is None:
                return
            yield batch


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Rows a second of both loaders, shuffled, by wall clock and by processor time."""
    folder = options.folder / "loader"
    schema = click_features(folder, options.loader_rows, [TABLE_ROWS // COLUMNS] * COLUMNS, DENSE)
    files = [str(path) for path in sorted((folder / "train").glob("*.parquet"))]
    mine = Batches(folder / "train", schema, options.batch, shuffle=True)
    dataset = Dataset(files, engine="parquet", schema=schema, cpu=True)
    stock = torch_loader().Loader(dataset, batch_size=options.batch, shuffle=True)
    found: dict[str, Any] = {"rows": mine.rows}
    for what, clock in (("wall", time.perf_counter), ("processor", time.process_time)):
        ways = [
            Way("ours", lambda c=clock: _pass(mine, mine.rows, c)),
            Way("stock loader", lambda c=clock: _pass(stock, mine.rows, c)),
        ]
        for way in ways:
            way.run()
        alternate(ways, options.rounds)
        title = f"loaders, {mine.rows:,} rows of {1 + DENSE + COLUMNS} columns, {what} time"
        found[what] = summary(title, "rows/s", ways, "ours")
    stock.stop()
    found["waiting"] = [_waiting(options, folder, schema, size) for size in (options.batch, 128)]
    return found


def _pass(loader: Any, rows: int, clock: Any) -> float:
    began = clock()
    for _ in loader:
        pass
    return rows / (clock() - began)


def _waiting(options: argparse.Namespace, folder: Any, schema: Any, size: int) -> dict[str, Any]:
    model = our_model(schema)
    train = Watched(folder / "train", schema, size, shuffle=True)
    settings = EngineSettings(
        batch_size=size, max_steps=len(train), patience=None, threads=options.threads
    )
    result = fit(model, train, None, settings, folder / "watched", resume=False)
    shutil.rmtree(folder / "watched")
    share = train.waited / result.seconds
    say(
        f"waiting for the loader at batch {size}: {share:.1%} of {result.steps} DLRM steps "
        f"({result.samples_per_second:,.0f} samples/s)"
    )
    return {
        "batch": size,
        "share": share,
        "steps": result.steps,
        "samples_per_second": result.samples_per_second,
    }
