"""The systems benchmark of the DLRM paper: 8 tables of 1M rows of 64, 100 lookups in every bag.

Naumov et al., 2019 (arXiv:1906.00091), section 5: 512 dense features, 1,000 batches of 2,048, SGD;
Caffe2 took 256 s on two sockets of CPUs and 62 s on one V100.
"""

import argparse
import shutil
from typing import Any

from benchmarks.train.features import click_features
from benchmarks.train.rounds import Way, alternate, summary
from core.console import say

TABLES, ROWS, DIM = 8, 1_000_000, 64
DENSE, BAG, BATCH = 512, 100, 2048
BOTTOM, TOP = [512, 512], [1024, 1024, 1024]
PAPER_BATCHES = 1000
PAPER_SECONDS = {"CPU, Caffe2, 2019": 256, "V100, Caffe2, 2019": 62}


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Samples a second of ours, and what the paper's run would take."""
    steps = options.systems_steps
    folder = options.folder / "systems"
    schema = click_features(folder, (steps + 1) * BATCH, [ROWS] * TABLES, DENSE, BAG)
    ways = [Way("ours", lambda: ours(options, folder, schema, steps))]
    alternate(ways, options.rounds)
    found = summary("DLRM paper's systems benchmark, SGD", "samples/s", ways, "ours")
    seconds = PAPER_BATCHES * BATCH / found["ours"]["best"]
    published = ", ".join(f"{where} {taken} s" for where, taken in PAPER_SECONDS.items())
    say(f"{PAPER_BATCHES:,} batches of {BATCH} at that rate: {seconds:,.0f} s; paper: {published}")
    return {**found, "seconds_for_the_papers_run": seconds, "paper_seconds": PAPER_SECONDS}


def ours(options: argparse.Namespace, folder: Any, schema: Any, steps: int) -> float:
    """``fit`` of DLRM with bags that are summed."""
    from training import ranking
    from training.batches import Batches
    from training.engine import fit
    from training.engine_settings import EngineSettings
    from training.ranking.dlrm import DLRMSettings

    sizes = {"embedding_dim": DIM, "bottom_mlp": BOTTOM, "top_mlp": TOP}
    model = ranking.build("dlrm", schema, DLRMSettings(**sizes), seed=0)
    model.body.tables.combiner = "sum"
    settings = EngineSettings(
        batch_size=BATCH,
        max_steps=steps,
        optimizer="sgd",
        learning_rate=0.01,
        patience=None,
        threads=options.threads,
    )
    train = Batches(folder / "train", schema, BATCH, shuffle=True, chunk_rows=4 * BATCH)
    result = fit(model, train, None, settings, folder / "ours", resume=False)
    shutil.rmtree(folder / "ours")
    return result.samples_per_second
