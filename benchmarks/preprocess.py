"""Raw Criteo text → feature Parquet: ours, stock NVTabular, and Polars by hand, in one run.

    python -m benchmarks.preprocess --rows 1000000 --rounds 3
    python -m benchmarks.preprocess --rows 1000000 4000000 16000000 --only ours

All three fit on days 0 to 7 of ten, and write features of days 0–7, 8 and 9: the label, 13 dense
columns (blank → 0, clipped at 0, log(1 + x), standardised) and 26 columns of codes by falling
frequency, at most 10 million a column (the cap of NVTabular's Criteo example). Each runs in a
process of its own; imports and a first run on a tiny log (numba compiles there) are timed apart.
Where several sizes are given, a last table shows how time per row and memory go with them.
A round runs all three one after the other, and ratios are taken within a round. Memory is the
resident memory of the process and all its children, sampled while the timed part runs.
"""

import argparse
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

DAYS = 10
SPLIT_DAYS = {"train": range(0, 8), "valid": range(8, 9), "test": range(9, 10)}
CAP = 10_000_000
LABEL = "label"
DENSE = [f"I{i}" for i in range(1, 14)]
CATEGORICAL = [f"C{i}" for i in range(1, 27)]
TINY_LINES = 50
SECONDS_BETWEEN_SAMPLES = 0.02
FLOAT_TOLERANCE = 2e-5


# the three ways; each gives a function that has been imported and can be called twice


def ours(settings: argparse.Namespace) -> Callable[[Path, Path], None]:
    """``merlin-pipeline ingest`` and ``preprocess``, as the command line calls them."""
    from core.cluster import ClusterSettings
    from pipeline.ingest.criteo import CriteoSourceSettings
    from pipeline.preprocess_ranking import RankingPreprocessSettings, preprocess_ranking
    from pipeline.splits import SplitSettings
    from pipeline.stages.ingest import ingest
    from workflows.ranking import RankingWorkflowSettings

    preprocessing = RankingPreprocessSettings(
        split=SplitSettings(kind="days", test_days=1, valid=1 / 9),
        workflow=RankingWorkflowSettings(freq_threshold=1, max_size=CAP),
    )
    cluster = ClusterSettings(memory_limit=settings.memory_limit)

    def run(log: Path, output: Path) -> None:
        ingest("ranking", CriteoSourceSettings(), log, output / "raw")
        preprocess_ranking(output / "raw", output / "features", preprocessing, cluster)

    return run


def nvtabular(settings: argparse.Namespace) -> Callable[[Path, Path], None]:
    """NVTabular's scaling-criteo example (01-Download-Convert, 02-ETL), on pandas: text → Parquet
    with string categories (its ``hex`` type is cuDF's only), then the workflow; no client."""
    import numpy as np

    import core.merlin as merlin

    types = {LABEL: np.int32} | dict.fromkeys(DENSE, np.float64) | dict.fromkeys(CATEGORICAL, str)

    def run(log: Path, output: Path) -> None:
        ops = merlin.ops
        for split, days in SPLIT_DAYS.items():
            files = [str(log / f"day_{day}") for day in days]
            dataset = merlin.Dataset(
                files, engine="csv", names=list(types), sep="\t", dtype=types, cpu=True
            )
            dataset.to_parquet(str(output / "raw" / split), preserve_files=True)
        codes = CATEGORICAL >> ops.Categorify(out_path=str(output / "stats"), max_size=CAP)
        dense = DENSE >> ops.FillMissing() >> ops.Clip(min_value=0) >> ops.LogOp()
        dense = dense >> ops.Normalize(out_dtype=np.float32)
        workflow = merlin.Workflow(codes + dense + [LABEL])
        parts = {
            split: merlin.Dataset(
                sorted(map(str, (output / "raw" / split).glob("*.parquet"))),
                engine="parquet",
                cpu=True,
            )
            for split in SPLIT_DAYS
        }
        workflow.fit(parts["train"])
        written = dict.fromkeys(CATEGORICAL, np.int64) | dict.fromkeys(DENSE, np.float32)
        for split, part in parts.items():
            workflow.transform(part).to_parquet(
                output_path=str(output / "features" / split),
                output_files=len(SPLIT_DAYS[split]),
                dtypes=written | {LABEL: np.float32},
            )

    return run


def polars(settings: argparse.Namespace) -> Callable[[Path, Path], None]:
    """The same result by hand, everything in memory, columns in parallel by Polars itself."""
    import polars as pl

    types = {LABEL: pl.Int8} | dict.fromkeys(DENSE, pl.Int32)
    types |= dict.fromkeys(CATEGORICAL, pl.String)

    def read(log: Path, split: str) -> Any:
        files = [log / f"day_{day}" for day in SPLIT_DAYS[split]]
        scanned = pl.scan_csv(files, separator="\t", has_header=False, schema=types)
        return scanned.with_columns(
            pl.col(CATEGORICAL).str.to_integer(base=16, dtype=pl.Int64),
            pl.col(LABEL).cast(pl.Float32),
        ).collect()

    def run(log: Path, output: Path) -> None:
        frames = {split: read(log, split) for split in SPLIT_DAYS}
        train = frames["train"].lazy()
        vocabularies = pl.collect_all(
            train.select(pl.col(name).drop_nulls())
            .group_by(name)
            .len()
            .sort(["len", name], descending=[True, False])
            .head(CAP - 3)
            .with_columns((pl.int_range(pl.len(), dtype=pl.Int32) + 3).alias("code"))
            for name in CATEGORICAL
        )
        (output / "state").mkdir(parents=True)
        for name, vocabulary in zip(CATEGORICAL, vocabularies, strict=True):
            vocabulary.write_parquet(output / "state" / f"{name}.parquet", compression_level=1)
        logged = [(pl.col(name).fill_null(0).clip(0).cast(pl.Float32) + 1).log() for name in DENSE]
        wide = [column.cast(pl.Float64) for column in logged]
        moments = train.select(
            *(c.mean().name.suffix("_mean") for c in wide),
            *(c.std().name.suffix("_std") for c in wide),
        ).collect()
        dense = [
            ((column - moments[f"{name}_mean"][0]) / moments[f"{name}_std"][0]).cast(pl.Float32)
            for name, column in zip(DENSE, wide, strict=True)
        ]
        for split, frame in frames.items():
            lazy = frame.lazy()
            codes = pl.collect_all(
                lazy.select(name)
                .join(v.lazy().select(name, "code"), on=name, how="left", maintain_order="left")
                .select(
                    pl.when(pl.col(name).is_null())
                    .then(1)
                    .otherwise(pl.col("code").fill_null(2))
                    .cast(pl.Int32)
                    .alias(name)
                )
                for name, v in zip(CATEGORICAL, vocabularies, strict=True)
            )
            features = pl.concat([frame.select(LABEL, *dense), *codes], how="horizontal")
            (output / "features" / split).mkdir(parents=True)
            path = output / "features" / split / "part-0.parquet"
            features.write_parquet(path, compression="zstd", compression_level=1)

    return run


WAYS = {"ours": ours, "nvtabular": nvtabular, "polars": polars}


# one timed run, in a process of its own


def child(options: argparse.Namespace) -> None:
    """Runs one way twice (a tiny log first) and prints its times as one line of JSON."""
    start = time.perf_counter()
    run = WAYS[options.child](options)
    imported = time.perf_counter()
    tiny = options.folder / "tiny"
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        run(tiny, Path(scratch) / "out")
    warmed, used = time.perf_counter(), _cpu_seconds()
    run(options.folder / "log", options.output)
    found = {"s": time.perf_counter() - warmed, "cpu_s": _cpu_seconds() - used}
    found |= {"imports_s": imported - start, "first_call_s": warmed - imported}
    (options.output / "times.json").write_text(json.dumps(found))


def _cpu_seconds() -> float:
    """Processor time of this process and its ended children, s."""
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in spent)


def measure(way: str, folder: Path, output: Path, memory_limit: str) -> dict[str, float]:
    """Starts a child for one way; its times (s) and the peak memory of its processes (GiB)."""
    import psutil

    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    command = [sys.executable, "-m", "benchmarks.preprocess", "--child", way]
    command += ["--folder", str(folder), "--output", str(output), "--memory-limit", memory_limit]
    log = output / "log.txt"
    peak = 0
    with open(log, "wb") as text, subprocess.Popen(command, stdout=text, stderr=text) as process:
        tree = psutil.Process(process.pid)
        while process.poll() is None:
            peak = max(peak, _resident(tree))
            time.sleep(SECONDS_BETWEEN_SAMPLES)
    if process.returncode:
        raise SystemExit(f"{way}: status {process.returncode}\n{log.read_text()[-3000:]}")
    times = json.loads((output / "times.json").read_text())
    return {**times, "peak_gib": peak / 2**30}


def _resident(tree: Any) -> int:
    import psutil

    total = 0
    try:
        for process in [tree, *tree.children(recursive=True)]:
            total += process.memory_info().rss
    except psutil.Error:  # it ended between the two calls
        pass
    return total


# the comparison


def compare(outputs: dict[str, Path]) -> dict[str, Any]:
    """Compares features value by value with ours.

    Codes must be equal; NVTabular orders values of equal frequency by chance, so there the codes
    must stand in a one-to-one relation between codes of equal frequency. Floats within
    ``FLOAT_TOLERANCE``.
    """
    found: dict[str, Any] = {}
    mine = {split: _read(outputs["ours"], split) for split in SPLIT_DAYS}
    for way, output in outputs.items():
        if way == "ours":
            continue
        worst, values, moved = 0.0, 0, 0
        theirs = {split: _read(output, split) for split in SPLIT_DAYS}
        for split in SPLIT_DAYS:
            a, b = mine[split], theirs[split]
            assert len(a) == len(b), f"{way} {split}: {len(b)} rows, ours {len(a)}"
            for name in [LABEL, *DENSE]:
                worst = max(worst, float((a[name] - b[name]).abs().max()))
                values += len(a)
        assert worst <= FLOAT_TOLERANCE, f"{way}: floats differ by {worst}"
        for name in CATEGORICAL:
            values += sum(len(frame) for frame in mine.values())
            moved += _compare_codes(name, mine, theirs, exact=way == "polars")
        found[way] = {"values": values, "largest_float_gap": worst, "codes_of_ties_moved": moved}
    return found


def _read(output: Path, split: str) -> Any:
    import polars as pl

    files = sorted((output / "features" / split).glob("*.parquet"), key=_number)
    return pl.concat([pl.read_parquet(path) for path in files])


def _number(path: Path) -> int:
    return int("".join(c for c in path.stem if c.isdigit()) or 0)


def _compare_codes(name: str, mine: Any, theirs: Any, exact: bool) -> int:
    """Checks one column; returns how many codes of equally frequent values are swapped."""
    import polars as pl

    pairs = pl.concat(
        [
            pl.DataFrame({"a": mine[s][name], "b": theirs[s][name].cast(pl.Int32)}).with_columns(
                pl.lit(s == "train").alias("train")
            )
            for s in SPLIT_DAYS
        ]
    )
    grouped = pairs.group_by("a", "b").agg(pl.col("train").sum().alias("n"))
    assert grouped["a"].is_unique().all() and grouped["b"].is_unique().all(), f"{name}: not 1 to 1"
    moved = grouped.filter(pl.col("a") != pl.col("b"))
    assert not (exact and len(moved)), f"{name}: {len(moved)} codes differ"
    assert moved.is_empty() or moved["a"].min() > 2, f"{name}: reserved codes differ"
    ranks = [grouped.filter(pl.col(c) > 2).sort(c)["n"] for c in ("a", "b")]
    assert (ranks[0] == ranks[1]).all(), f"{name}: frequencies of the codes differ"
    return len(moved)


# the whole


def prepare(rows: int, folder: Path, threads: int) -> Path:
    """The generated log of ``rows`` rows, and a tiny one beside it."""
    from pipeline.synthetic.criteo import CriteoGenerateSettings, generate_criteo

    target = folder / f"rows-{rows}"
    if not (target / "manifest.json").exists():
        generate_criteo(CriteoGenerateSettings(rows=rows, days=DAYS, threads=threads), target)
    (target / "tiny").mkdir(exist_ok=True)
    for day in range(DAYS):
        with open(target / "log" / f"day_{day}", "rb") as file:
            lines = b"".join(file.readline() for _ in range(TINY_LINES))
        (target / "tiny" / f"day_{day}").write_bytes(lines)
    return target


def measure_rows(rows: int, options: argparse.Namespace) -> dict[str, Any]:
    """All rounds at one size, the comparison of the last round's outputs, and the ratios."""
    folder = prepare(rows, options.folder, options.threads)
    outputs = {way: folder / f"out-{way}" for way in options.only}
    rounds = []
    for _ in range(options.rounds):
        limit = options.memory_limit
        rounds.append({w: measure(w, folder, outputs[w], limit) for w in options.only})
    found: dict[str, Any] = {"rows": rows, "rounds": rounds}
    if "ours" in options.only and len(options.only) > 1:
        found["compared"] = compare(outputs)
        found["ratios"] = {
            way: [r[way]["s"] / r["ours"]["s"] for r in rounds]
            for way in options.only
            if way != "ours"
        }
    found["text_bytes"] = sum(p.stat().st_size for p in (folder / "log").iterdir())
    for way, output in outputs.items():
        found.setdefault("feature_bytes", {})[way] = sum(
            p.stat().st_size for p in (output / "features").rglob("*.parquet")
        )
        shutil.rmtree(output)
    return found


def report(results: list[dict[str, Any]]) -> None:
    """Prints what was measured as tables."""
    from core.console import say, table

    for found in results:
        rows = []
        for way in found["rounds"][0]:
            runs = [r[way] for r in found["rounds"]]
            middle = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
            each = ", ".join(f"{run['s']:.2f}" for run in runs)
            per_row = middle["s"] / found["rows"] * 1e6
            first = f"{middle['imports_s']:.1f} + {middle['first_call_s']:.1f}"
            seconds = [each, middle["s"], middle["cpu_s"], per_row]
            rows.append([way, *seconds, middle["peak_gib"], first])
        header = ["way", "seconds, each round", "median s", "CPU s", "µs a row", "peak GiB"]
        table(f"{found['rows']:,} rows", [*header, "imports + first call (apart), s"], rows)
        for way, ratios in found.get("ratios", {}).items():
            each = ", ".join(f"{ratio:.2f}" for ratio in ratios)
            say(f"{way} took {statistics.median(ratios):.2f} times as long as ours ({each})")
        for way, same in found.get("compared", {}).items():
            gap, moved = same["largest_float_gap"], same["codes_of_ties_moved"]
            say(
                f"{way}: {same['values']:,} values agree with ours (floats within {gap:.1e}; "
                f"{moved:,} codes of equally frequent values in another order)"
            )


def scale(results: list[dict[str, Any]]) -> list[dict[str, float]]:
    """How ours goes with the rows: medians over the rounds, and the time per row against that of
    the first size."""
    found: list[dict[str, float]] = []
    for measured in results:
        runs = [each["ours"] for each in measured["rounds"]]
        middle = {key: statistics.median(run[key] for run in runs) for key in ("s", "cpu_s")}
        entry = {"rows": measured["rows"], **middle}
        entry["us_a_row"] = middle["s"] / measured["rows"] * 1e6
        entry["cpu_us_a_row"] = middle["cpu_s"] / measured["rows"] * 1e6
        entry["peak_gib"] = max(run["peak_gib"] for run in runs)
        first = found[0] if found else entry
        entry["to_first"] = entry["us_a_row"] / first["us_a_row"]
        entry["cpu_to_first"] = entry["cpu_us_a_row"] / first["cpu_us_a_row"]
        found.append(entry)
    return found


def report_scale(found: list[dict[str, float]], memory_limit: str) -> None:
    """Prints :func:`scale` as a table."""
    from core.console import table

    header = ["rows", "seconds", "µs a row", "to the first", "CPU s", "CPU µs a row"]
    header += ["CPU to the first", f"peak GiB (limit {memory_limit})"]
    names = ["s", "us_a_row", "to_first", "cpu_s", "cpu_us_a_row", "cpu_to_first", "peak_gib"]
    rows = [[f"{e['rows']:,}", *(f"{e[name]:.2f}" for name in names)] for e in found]
    table("ours by rows, medians over the rounds", header, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--memory-limit", default="4GiB", help="cluster.memory_limit of ours")
    parser.add_argument("--threads", type=int, default=0, help="to generate the log with")
    parser.add_argument("--folder", type=Path, default=Path("data/benchmarks/preprocess"))
    parser.add_argument("--output", type=Path, help="JSON to write (default: in the folder)")
    parser.add_argument("--child", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options)
        return
    results = [measure_rows(rows, options) for rows in options.rows]
    report(results)
    if len(results) > 1 and "ours" in options.only:
        found = scale(results)
        report_scale(found, options.memory_limit)
        results = {"sizes": results, "scale": found}
    output = options.output or options.folder / "results.json"
    output.write_text(json.dumps(results, indent=2) + "\n")
    print(f"wrote {output}")


if __name__ == "__main__":
    main()
