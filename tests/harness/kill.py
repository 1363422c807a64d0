"""Kills stages with SIGKILL at random moments and compares what the next run ends in.

    python -m tests.harness.kill --kills 50

For each stage (ingest and preprocess, of both recipes) an undisturbed run on a generated log is
timed. Then, as often as asked, the stage is begun on a fresh output, its whole process group is
killed after a random part of that time, sometimes the run that goes on is killed as well, and a
last run goes to the end. Every file must then have the bytes of the undisturbed run, and no file
may be there that it does not have. Shards that were finished at the moment of the kill must still
be the same files (by inode) at the end: they were kept, not made again.
"""

import argparse
import gzip
import hashlib
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from core.artifacts import read_json

PRELOAD = [
    "pipeline.__main__",
    "pipeline.preprocess_ranking",
    "pipeline.preprocess_sessions",
    "pipeline.stages.ingest",
    "pipeline.stages.preprocess",
    "pipeline.ingest.criteo_parser",
    "pipeline.ingest.records",
    "pipeline.ingest.gaps",
    "distributed",
]
"""Imported once, in the server that the runs are forked from: kills then hit work, not imports."""
STAGES = ("ingest", "preprocess")
POLL_SECONDS = 0.0002
AGAIN = 0.3
"""Chance that the run that goes on is killed too."""

RANKING = """
ranking:
  source: {rows_per_shard: 3000, block_bytes: 100000, max_bad_fraction: 0.1, workers: 2}
  preprocess: {rows_per_part: 4000, workflow: {freq_threshold: 2}}
cluster: {kind: threads, workers: 2}
"""
SESSIONS = """
sessions:
  source:
    columns: {session_id: null, user_id: user_id, category: category, brand: brand, price: price}
    session_gap_minutes: 30
    drop_duplicates: true
    max_bad_fraction: 0.1
    rows_per_shard: 3000
    block_bytes: 60000
    workers: 2
  preprocess: {events_per_part: 4000}
cluster: {kind: threads, workers: 2}
"""


@dataclass(frozen=True)
class Job:
    """One stage of one recipe with its settings, input and outputs."""

    recipe: str
    stage: str
    settings: Path
    input: Path

    @property
    def name(self) -> str:
        return f"{self.stage} {self.recipe}"

    def arguments(self, output: Path) -> list[str]:
        paths = ["--settings", str(self.settings), "--output", str(output)]
        return [self.stage, self.recipe, "--input", str(self.input), *paths]


@dataclass
class Tally:
    """What a job's kills led to."""

    job: str
    seconds: float
    kills: int = 0
    too_late: int = 0
    runs: int = 0
    shards_found: int = 0
    shards_kept: int = 0
    files_compared: int = 0
    faults: list[str] = field(default_factory=list)


def run_stage(arguments: list[str]) -> None:
    """In a process of its own: one subcommand, as leader of a process group, output dropped."""
    from pipeline.__main__ import main

    os.setsid()
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    sys.exit(main(arguments))


class Runner:
    """Starts stages in processes forked from a server that has everything imported."""

    def __init__(self, preload: Sequence[str] = PRELOAD) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(preload))

    def run(
        self,
        arguments: list[str],
        kill_after: float | None = None,
        waits_for: Callable[[], bool] = lambda: True,
    ) -> int | None:
        """The exit status, or None if the process group was killed before it ended.

        Args:
            kill_after: seconds after which it is killed, as soon as ``waits_for()`` is true.
        """
        process = self._context.Process(target=run_stage, args=(arguments,))
        process.start()
        process.join(kill_after)
        while process.exitcode is None and not waits_for():
            time.sleep(POLL_SECONDS)
        if process.exitcode is not None:
            return process.exitcode
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            process.kill()  # it had not come to lead a group yet
        process.join()
        return None


def all_bytes(folder: Path) -> dict[str, str]:
    """The hash of every file below a folder, hidden ones too."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def finished_shards(output: Path) -> set[tuple[int, int]]:
    """Device and inode of every whole shard that a killed run left."""
    partial = output.with_name(f".{output.name}.partial")
    paths = [*output.glob("*/part-*.parquet"), *partial.glob("out/part-*.parquet")]
    for progress in partial.glob("file-*/progress.json"):
        named = [progress.parent / shard["file"] for shard in read_json(progress)["shards"]]
        paths += [path for path in named if path.exists()]
    return {(path.stat().st_dev, path.stat().st_ino) for path in paths}


def ended_but_for_its_exit(output: Path) -> bool:
    """Whether the killed run had published its output and cleared its workspace."""
    partial = output.with_name(f".{output.name}.partial")
    return (output / "manifest.json").is_file() and not partial.exists()


def inodes(folder: Path) -> set[tuple[int, int]]:
    return {(p.stat().st_dev, p.stat().st_ino) for p in folder.rglob("*.parquet")}


def try_job(
    runner: Runner,
    job: Job,
    scratch: Path,
    kills: int,
    draw: random.Random,
    told: Callable[[str], None],
) -> Tally:
    """Kills one stage until ``kills`` kills have landed, each followed by a run to the end."""
    reference = scratch / "reference"
    if runner.run(job.arguments(reference)) != 0:
        raise RuntimeError(f"{job.name}: the undisturbed run failed")
    begin = time.monotonic()
    runner.run(job.arguments(scratch / "timed"))
    tally = Tally(job.name, time.monotonic() - begin)
    expected = all_bytes(reference)
    # Where sessions are cut by gaps, ingest writes its shards a second time.
    rewritten = job.stage == "ingest" and job.recipe == "sessions"
    while tally.kills < kills:
        output = scratch / "killed"
        for old in (output, output.with_name(f".{output.name}.partial")):
            shutil.rmtree(old, ignore_errors=True)
        found: set[tuple[int, int]] = set()
        killed = 0
        status = None
        while True:
            after = draw.uniform(0, tally.seconds)
            status = runner.run(job.arguments(output), after)
            if status is not None:
                tally.too_late += not killed
                break
            killed += 1
            found |= finished_shards(output)
            if job.stage == "ingest" and ended_but_for_its_exit(output):
                status = 0
                break
            if draw.random() >= AGAIN or tally.kills + killed >= kills:
                break
        if not killed:
            continue
        # A run that came to its end is the last one: another would ingest the log anew.
        if status is None:
            status = runner.run(job.arguments(output))
        tally.kills += killed
        tally.runs += 1
        compared, faults = compare(status, expected, output)
        tally.files_compared += compared
        tally.faults += faults
        kept = found & inodes(output) if output.exists() else set()
        tally.shards_found += len(found)
        tally.shards_kept += len(kept)
        if not rewritten and found != kept:
            tally.faults.append(f"{len(found - kept)} of {len(found)} finished shards made again")
        told(f"{job.name}: {tally.kills} kills, {len(tally.faults)} faults")
    return tally


def compare(status: int | None, expected: dict[str, str], output: Path) -> tuple[int, list[str]]:
    """How many files were compared with the undisturbed run's, and whatever differs."""
    if status != 0:
        return 0, [f"the run after the kill ended with status {status}"]
    found = all_bytes(output)
    faults = []
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            what = "is missing" if name not in found else "differs"
            faults.append(f"{name} {what if name in expected else 'should not be there'}")
    partial = output.with_name(f".{output.name}.partial")
    if partial.exists():
        faults.append(f"{partial.name} was left behind")
    return len(expected), faults


def make_jobs(runner: Runner, folder: Path, rows: int) -> list[Job]:
    """Generated logs of both recipes with some bad lines, one file of each compressed."""
    for recipe, text in (("ranking", RANKING), ("sessions", SESSIONS)):
        (folder / f"{recipe}.yaml").write_text(text)
    generated = {
        "ranking": ["ranking.generate.rows", "ranking.generate.days"],
        "sessions": ["sessions.generate.sessions", "sessions.generate.days"],
    }
    jobs = []
    for recipe, (size, days) in generated.items():
        log = folder / recipe / "generated"
        count = rows if recipe == "ranking" else rows // 4
        sets = ["--set", f"{size}={count}", "--set", f"{days}=3"]
        settings = folder / f"{recipe}.yaml"
        arguments = ["generate", recipe, "--settings", str(settings), "--output", str(log), *sets]
        if runner.run(arguments) != 0:
            raise RuntimeError(f"no {recipe} log could be generated")
        spoil(log / "log")
        raw = folder / recipe / "raw"
        jobs += [
            Job(recipe, "ingest", settings, log / "log"),
            Job(recipe, "preprocess", settings, raw),
        ]
        if runner.run(jobs[-2].arguments(raw)) != 0:
            raise RuntimeError(f"the generated {recipe} log could not be ingested")
    return jobs


def spoil(log: Path) -> None:
    """Puts a bad line after every 500th, a repeated one after every 700th; packs one file."""
    for number, path in enumerate(sorted(log.iterdir())):
        lines = path.read_bytes().splitlines(keepends=True)
        spoilt = []
        for index, line in enumerate(lines):
            spoilt.append(line)
            if index % 700 == 350:
                spoilt.append(line)
            if index % 500 == 250:
                spoilt.append(b"not a line of this log\n")
        content = b"".join(spoilt)
        path.unlink()
        if number == 1:
            path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(content, 1, mtime=0))
        else:
            path.write_bytes(content)


def try_all(
    kills: int,
    rows: int,
    seed: int,
    only: Sequence[str] = (),
    told: Callable[[str], None] = lambda line: None,
) -> list[Tally]:
    """Kills every stage ``kills`` times; ``only`` narrows to stages such as ``ingest ranking``."""
    draw = random.Random(seed)
    runner = Runner()
    with tempfile.TemporaryDirectory(prefix="kill-") as name:
        jobs = make_jobs(runner, Path(name), rows)
        tallies = []
        for number, job in enumerate(jobs):
            if only and job.name not in only:
                continue
            scratch = Path(name) / f"job-{number}"
            scratch.mkdir()
            tallies.append(try_job(runner, job, scratch, kills, draw, told))
            shutil.rmtree(scratch)
    return tallies


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=50, help="of each stage (default: 50)")
    parser.add_argument("--rows", type=int, default=60_000, help="of the log (default: 60,000)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    parser.add_argument("--only", nargs="*", default=[], metavar="'STAGE RECIPE'")
    options = parser.parse_args()
    tallies = try_all(options.kills, options.rows, options.seed, options.only, print)
    print(
        "\nstage                 kills  runs to the end  s a run  shards found/kept  files  faults"
    )
    for tally in tallies:
        kept = f"{tally.shards_found}/{tally.shards_kept}"
        print(
            f"{tally.job:<20} {tally.kills:>6} {tally.runs:>16} {tally.seconds:>8.2f}"
            f" {kept:>18} {tally.files_compared:>6} {len(tally.faults):>7}"
        )
    for tally in tallies:
        for fault in sorted(set(tally.faults)):
            print(f"  {tally.job}: {fault} ({tally.faults.count(fault)} times)")
    return int(any(tally.faults for tally in tallies))


if __name__ == "__main__":
    sys.exit(main())
