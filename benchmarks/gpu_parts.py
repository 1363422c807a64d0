"""The parts of ``benchmarks.gpu``; each is a function of its options that gives figures by name.

A part runs in a process of its own: ``python -m benchmarks.gpu_parts NAME OPTIONS OUTPUT``, with
the options as JSON. It writes what it found, as JSON, to ``OUTPUT``.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.gpu_watch import Watch, watched

KAGGLE_TABLES = (
    *(1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194, 27),
    *(14992, 5461306, 10, 5652, 2173, 4, 7046547, 18, 15, 286181, 105, 142572),
)
"""Distinct values of Criteo Kaggle's 26 columns."""
TERABYTE_TABLES = (
    *(9980333, 36084, 17217, 7378, 20134, 3, 7112, 1442, 61, 9758201, 1333352, 313829, 10, 2208),
    *(11156, 122, 4, 970, 14, 9994222, 7267859, 9946608, 415421, 12420, 101, 36),
)
"""Distinct values of Criteo 1TB's columns, ids capped at 10 million."""
NETS: dict[str, dict[str, Any]] = {
    "kaggle": {
        "tables": KAGGLE_TABLES,
        "net": {"embedding_dim": 16, "bottom_mlp": [512, 256, 64], "top_mlp": [512, 256]},
    },
    "1tb": {
        "tables": TERABYTE_TABLES,
        "net": {"embedding_dim": 64, "bottom_mlp": [512, 256], "top_mlp": [512, 512, 256]},
    },
}
"""DLRM's own nets; the last bottom layer has the width of the embeddings."""
DENSE = 13
UNCOUNTED = 5
"""First steps that no rate counts: what is loaded, compiled or tuned once."""


@dataclass(frozen=True)
class Sizes:
    """How much each part does."""

    log_rows: int
    rows_per_part: int
    feature_rows: int
    batch: int
    steps: int
    sessions: int
    session_batch: int
    largest_table: int


SIZES = {
    "full": Sizes(16_000_000, 4_000_000, 2_097_152, 65_536, 200, 200_000, 2048, 10_000_000),
    "small": Sizes(4_000, 1_000, 2_048, 256, 6, 300, 32, 1_000),
}


@dataclass(frozen=True)
class Options:
    """What the command line asked for."""

    device: str
    rows: str
    work: str

    @property
    def sizes(self) -> Sizes:
        return SIZES[self.rows]

    def folder(self, name: str) -> Path:
        folder = Path(self.work) / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder


Found = dict[str, Any]


def equality(options: Options) -> Found:
    """The tests that hold CPU and GPU side by side; without a GPU those on stand-ins for cuDF."""
    report = options.folder("equality") / "report.xml"
    chosen = ["-m", "gpu"] if options.device == "cuda" else ["-k", "device_table"]
    command = [sys.executable, "-m", "pytest", "-q", "tests/gpu", *chosen, f"--junitxml={report}"]
    subprocess.run([*command, "-p", "no:cacheprovider"], cwd=Path(__file__).parents[1])
    suite = next(ElementTree.parse(report).getroot().iter("testsuite"))
    counts = {name: int(suite.get(name)) for name in ("tests", "failures", "errors", "skipped")}
    failed = [
        case.get("name")
        for case in suite.iter("testcase")
        if case.find("failure") is not None or case.find("error") is not None
    ]
    passed = counts["tests"] - counts["failures"] - counts["errors"] - counts["skipped"]
    if not passed and not failed:
        raise SystemExit("no test of equality ran; the reasons stand above")
    return {"passed": passed, **counts, "failed": failed}


def features(options: Options) -> Found:
    """Raw Criteo text → raw Parquet (CPU) → features (``device``): rows a second of each."""
    from pipeline.ingest.criteo import CriteoSourceSettings
    from pipeline.preprocess_ranking import RankingPreprocessSettings, preprocess_ranking
    from pipeline.splits import SplitSettings
    from pipeline.stages.ingest import ingest
    from pipeline.synthetic.criteo import CriteoGenerateSettings, generate_criteo
    from workflows.ranking import RankingWorkflowSettings

    sizes, work = options.sizes, options.folder("features")
    split = SplitSettings(kind="days", test_days=1, valid=1 / 9)
    settings = RankingPreprocessSettings(
        split=split,
        workflow=RankingWorkflowSettings(freq_threshold=1, max_size=10_000_000),
        rows_per_part=sizes.rows_per_part,
    )
    source = CriteoSourceSettings(rows_per_shard=sizes.rows_per_part)
    seconds: dict[str, list[float]] = {"text → raw": [], "raw → features": []}
    with _warm_workers(options) as cluster:
        # Once for what is imported and compiled on the way.
        for rows in (1_000, sizes.log_rows):
            folder = work / f"rows-{rows}"
            made = CriteoGenerateSettings(rows=rows, days=10, threads=os.cpu_count() or 1)
            generate_criteo(made, folder)
            read = partial(ingest, "ranking", source, folder / "log", folder / "raw")
            seconds["text → raw"].append(_seconds(read))
            make = partial(preprocess_ranking, folder / "raw", folder / "features", settings)
            with watched(options.device) as watch:
                seconds["raw → features"].append(_seconds(lambda make=make: make(cluster)))
    took = {name: found[-1] for name, found in seconds.items()}
    took["text → features"] = sum(took.values())
    return {
        "rows": sizes.log_rows,
        **{f"{name}, rows/s": sizes.log_rows / spent for name, spent in took.items()},
        **_of_gpu(watch),
    }


@contextlib.contextmanager
def _warm_workers(options: Options) -> Iterator[Any]:
    """Settings of workers that run already, as a cluster's do: to start them takes seconds."""
    from core.cluster import ClusterSettings, start

    settings = ClusterSettings(device=options.device, memory_limit="64GiB")
    if options.device == "cpu":
        yield settings
        return
    with start(settings) as client:
        address = client.scheduler.address
        yield settings.model_copy(update={"kind": "scheduler", "address": address})


def loader(options: Options) -> Found:
    """Rows a second that the loader hands out, shuffled, on the device."""
    import torch

    batches, _ = _click_batches(options, "kaggle")
    device = torch.device(options.device)
    batches.hand_out_on(device)

    def once() -> None:
        for _ in batches:
            pass
        _wait(options)

    once()
    with watched(options.device) as watch:
        rates = [batches.rows / _seconds(once) for _ in range(3)]
    return {"rows/s": max(rates), "rounds": rates, **_of_gpu(watch)}


def dlrm_kaggle(options: Options) -> Found:
    """DLRM with its net for Criteo Kaggle."""
    return _dlrm(options, "kaggle")


def dlrm_1tb(options: Options) -> Found:
    """DLRM with its net for Criteo 1TB."""
    return _dlrm(options, "1tb")


def _dlrm(options: Options, name: str) -> Found:
    """Training samples a second in bf16, as ``merlin-pipeline train`` trains, without validation:
    as it is, and with the dense layers compiled."""
    ways = {"bf16": {"precision": "bf16"}}
    if options.device == "cuda":
        ways["bf16, compiled"] = {"precision": "bf16", "compile": True}
    found: Found = {"batch": options.sizes.batch}
    for way, settings in ways.items():
        try:
            rate, watch = _train_dlrm(options, name, settings)
        except Exception as error:  # the other way's figure stands
            found[f"{way}, fault"] = f"{type(error).__name__}: {error}"
            continue
        found[f"{way}, samples/s"] = rate
        found |= {f"{way}, {what}": value for what, value in _of_gpu(watch).items()}
    return found


def _train_dlrm(options: Options, name: str, settings: Found) -> tuple[float, Watch]:
    from training import ranking
    from training.ranking.dlrm import DLRMSettings

    batches, schema = _click_batches(options, name)
    model = ranking.build("dlrm", schema, DLRMSettings(**NETS[name]["net"]), seed=0)
    common = {"optimizer": "sgd", "learning_rate": 0.1, "batch_size": options.sizes.batch}
    return _fit(options, model, batches, {**common, **settings})


def _click_batches(options: Options, name: str) -> tuple[Any, Any]:
    """Batches of random rows over the tables of a net, written once."""
    from benchmarks.train.features import click_features
    from training.batches import Batches

    sizes = options.sizes
    tables = [max(4, min(size, sizes.largest_table)) for size in NETS[name]["tables"]]
    folder = options.folder(f"clicks-{name}")
    schema = click_features(folder, sizes.feature_rows, tables, DENSE)
    return Batches(folder / "train", schema, sizes.batch, drop_last=True), schema


def sessions(options: Options) -> Found:
    """Sequences a second of XLNet (Transformers4Rec) and SASRec over random sessions; a sequence is
    an event with what came before it."""
    from benchmarks.train.features import session_features
    from benchmarks.train.sessions import ITEMS, LONGEST, random_sessions
    from training import sessions as models
    from training.batches import Batches

    sizes, found = options.sizes, {}
    drawn = random_sessions(sizes.sessions)
    a_session = sum(map(len, drawn)) / len(drawn) - 1
    folder = options.folder("sessions")
    schema = session_features(folder, drawn, ITEMS)
    for name in ("xlnet", "sasrec"):
        net = {"d_model": 64, "layers": 2, "heads": 4, "dropout": 0.2, "max_length": LONGEST - 1}
        model = models.build(name, schema, net)
        batches = Batches(folder / "train", schema, sizes.session_batch, drop_last=True)
        settings = {**models.ENGINE_DEFAULTS, "batch_size": sizes.session_batch}
        rate, watch = _fit(options, model, batches, {**settings, "precision": "bf16"})
        found[f"{name}, sequences/s"] = rate * a_session
        found |= {f"{name}, {what}": value for what, value in _of_gpu(watch).items()}
    return {"batch of sessions": sizes.session_batch, **found}


def _fit(options: Options, model: Any, batches: Any, settings: Found) -> tuple[float, Watch]:
    """Rows a second of the training loop, after its first steps."""
    from training.engine import fit
    from training.engine_settings import EngineSettings

    steps, asked = options.sizes.steps + UNCOUNTED, []
    given = {"patience": None, "epochs": 1 + steps // len(batches), "max_steps": steps}
    engine = EngineSettings(**{**settings, **given, "device": options.device})
    hand_out = type(batches).__iter__

    class Clocked(type(batches)):  # type: ignore[misc]
        """Notes when each batch is asked for; what came before is then done."""

        def __iter__(self):
            for batch in hand_out(self):
                if len(asked) in (UNCOUNTED, steps - 1):
                    _wait(options)
                asked.append(time.perf_counter())
                yield batch

    batches.__class__ = Clocked
    folder = options.folder("model")
    with watched(options.device) as watch:
        fit(model, batches, None, engine, folder, resume=False)
    shutil.rmtree(folder)
    seconds = asked[steps - 1] - asked[UNCOUNTED]
    return (steps - 1 - UNCOUNTED) * batches.batch_size / seconds, watch


def _wait(options: Options) -> None:
    if options.device == "cuda":
        import torch

        torch.cuda.synchronize()


def _seconds(run: Callable[[], Any]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def _of_gpu(watch: Watch) -> Found:
    """Empty without a GPU."""
    if watch.busy_share is None:
        return {}
    return {"GPU busy": watch.busy_share, "peak GPU bytes": watch.peak_bytes}


PARTS: dict[str, Callable[[Options], Found]] = {
    "features": features,
    "dlrm-kaggle": dlrm_kaggle,
    "dlrm-1tb": dlrm_1tb,
    "loader": loader,
    "sessions": sessions,
    "equality": equality,
}


if __name__ == "__main__":
    part, given, output = sys.argv[1:]
    measured = PARTS[part](Options(**json.loads(given)))
    Path(output).write_text(json.dumps(measured), encoding="utf-8")
