"""Alters bundles, model folders, states of features and checkpoints, and reads each as if nothing.

    python -m tests.harness.bundles

First as accidents do: single bytes altered, removed or doubled, whole files removed, swapped, cut
or replaced by links, with the checksums that were written. Each must give the same output or one
UserError that names a file of the folder. Then as strangers do, with checksums that are put right:
there another output is possible, but no other exception, no number that is not finite, nothing
from outside of the folder, not more than two seconds and not more than 500 MB.
"""

import argparse
import json
import os
import queue
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

os.environ.setdefault("OMP_NUM_THREADS", "1")

from core import console
from core.errors import UserError
from tests.harness import strangers, targets
from tests.harness.strangers import Alter
from tests.harness.targets import Target

MOST_SECONDS, MOST_BYTES = 2.0, 500 << 20
HANGS = 30
ROOM = 6 << 30
"""Address space beyond what the process has, so that what goes wild ends itself alone."""
KINDS = ("bytes", "files", "JSON resealed", "bytes resealed", "files resealed", "by hand")
SHARES = {"bytes": 16_000, "bytes resealed": 3_000, "JSON resealed": 9_000}
"""Alterations of each kind over all targets; of the other kinds all there are."""


@dataclass
class Count:
    """What became of the alterations of one kind of one target."""

    target: str
    kind: str
    tried: int = 0
    same: int = 0
    refused: int = 0
    other: int = 0
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0
    slowest: float = 0.0
    most_bytes: int = 0


def alterations(target: Target, kind: str, number: int, seed: int) -> list[tuple[str, Alter]]:
    """Alterations of a target, of one kind; at most ``number`` of those that are drawn."""
    draw = random.Random(f"{seed} {target.name} {kind}")
    if kind in ("bytes", "bytes resealed"):
        return list(_bytes(target, kind, number, draw))
    if kind == "JSON resealed":
        found = strangers.json_alterations(target)
        return draw.sample(found, min(number, len(found)))
    if kind == "by hand":
        return strangers.by_hand(target) if target.manifest else []
    return strangers.file_alterations(target, sealed=kind == "files resealed")


def _bytes(target: Target, kind: str, number: int, draw: random.Random) -> Iterator:
    """Single bytes, as many of each file."""
    paths = [path for path in sorted(target.folder.rglob("*")) if path.is_file()]
    paths = [path for path in paths if "train" not in path.parts and path.stat().st_size]
    for path in paths:
        name = path.relative_to(target.folder).as_posix()
        for _ in range(-(-number // len(paths))):
            if kind == "bytes resealed":
                yield strangers.byte_alteration(target, name, draw)
            else:
                at, how = draw.randrange(path.stat().st_size), draw.randrange(3)
                yield _plain(name, at, how, draw.randrange(8))


def _plain(name: str, at: int, how: int, bit: int) -> tuple[str, Alter]:
    def alter(folder: Path) -> None:
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(strangers.with_byte(whole, at, how, bit))

    return f"{name}: byte {at:,} {('altered', 'removed', 'doubled')[how]}", alter


# reading what was altered, in a process that may die of it


@dataclass(frozen=True)
class Plan:
    """Which alterations are tried, the same in every process.

    Attributes:
        part: of what there is.
        only: kinds whose names begin so.
    """

    part: float = 1.0
    seed: int = 0
    only: str = ""

    def jobs(self, folder: Path) -> Iterator[tuple[Target, str, str, Alter]]:
        """Target, kind and label of each alteration."""
        found = targets.open_all(folder)
        for target in found:
            for kind in KINDS:
                if not kind.startswith(self.only):
                    continue
                number = max(1, round(self.part * SHARES.get(kind, 0) / len(found)))
                jobs = alterations(target, kind, number, self.seed)
                if self.part < 1 and kind not in SHARES:
                    draw = random.Random(self.seed)
                    jobs = draw.sample(jobs, round(len(jobs) * self.part))
                for label, alter in jobs:
                    yield target, kind, label, alter


def work(folder: Path, plan: Plan, skip: int, results: TextIO) -> None:
    """Tries the alterations after the first ``skip``; a line of JSON says what begins, and one what
    came of it."""
    limit = _status("VmSize") + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    console.out.quiet = True
    target = None
    for number, (of, kind, label, alter) in enumerate(plan.jobs(folder)):
        if number < skip:
            continue
        if of is not target:
            target, copy = of, folder / "copy" / of.folder.name
            expected = target.read(target.folder)
            _restore(target, copy)
        print(json.dumps([target.name, kind, label]), file=results, flush=True)
        result = _try(target, copy, alter, expected)
        result["fault"] = _fault(result, str(copy), kind)
        print(json.dumps(result), file=results, flush=True)


def _restore(target: Target, copy: Path) -> None:
    for folder in (copy, copy.with_name(f"{copy.name}-outside")):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(target.folder, copy)


def _try(target: Target, copy: Path, alter: Alter, expected: bytes) -> dict[str, Any]:
    """Reads an altered copy; what became of it, in what time and memory."""
    alter(copy)
    before = _reset_peak()
    began, worked = time.monotonic(), time.process_time()
    result: dict[str, Any]
    try:
        result = {"became": "same" if target.read(copy) == expected else "other"}
    except UserError as error:
        result = {"became": "refused", "what": str(error)}
    except BaseException as error:
        what = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        result = {"became": "fault", "what": what}
    # Of a machine that others share, only what this process worked counts.
    result["seconds"] = min(time.monotonic() - began, time.process_time() - worked)
    result["bytes"] = _status("VmHWM") - before
    _restore(target, copy)
    return result


def _fault(result: dict[str, Any], copy: str, kind: str) -> str:
    """Why a result is a fault; empty if it is none."""
    became, what = result["became"], result.get("what", "")
    if became == "fault":
        return what
    if became == "refused" and copy not in what:
        return f"names no file: {what}"
    if became == "refused" and not what.replace("\n", "").isprintable():
        return f"cannot be printed: {what!r}"
    if became == "other" and kind in ("bytes", "files"):
        return "another output"
    if result["seconds"] > MOST_SECONDS:
        return f"{result['seconds']:.1f} s, {became} {what}"
    if result["bytes"] > MOST_BYTES:
        return f"{result['bytes'] / 2**20:.0f} MB, {became} {what}"
    return ""


def try_all(plan: Plan) -> list[Count]:
    """Makes the targets, and tries the alterations in processes of their own, one after another."""
    counts: dict[tuple[str, str], Count] = {}
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="bundles-", dir=memory) as name:
        quiet, console.out.quiet = console.out.quiet, True
        try:
            targets.make_all(Path(name))
        finally:
            console.out.quiet = quiet
        done, more = 0, True
        while more:
            more = False
            for (of, kind, label), result in _results(Path(name), plan, done):
                done += 1
                more = result["became"] == "died"
                count = counts.setdefault((of, kind), Count(of, kind))
                _add(count, label, result)
    return list(counts.values())


def _results(folder: Path, plan: Plan, skip: int) -> Iterator[tuple[list[str], dict[str, Any]]]:
    """The results of a process, until it has done all or has died, which is the last result."""
    command = [sys.executable, "-m", __spec__.name, "--work", str(folder), "--skip", str(skip)]
    command += ["--part", str(plan.part), "--seed", str(plan.seed), "--only", plan.only]
    lines: queue.Queue[str] = queue.Queue()
    with open(folder / "errors", "w") as errors:
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
    threading.Thread(target=_pass_on, args=(child.stdout, lines), daemon=True).start()
    asked: list[str] | None = None
    try:
        while True:
            try:
                line = lines.get(timeout=HANGS + 60 * (asked is None))
            except queue.Empty:
                line = ""
            if asked is None and not line:
                if child.wait():
                    raise RuntimeError((folder / "errors").read_text()[-2000:])
                return
            if asked is None:
                asked = json.loads(line)
            elif not line:
                yield asked, {"became": "died", "fault": f"its process died or took {HANGS} s"}
                return
            else:
                yield asked, json.loads(line)
                asked = None
    finally:
        child.kill()
        child.wait()


def _pass_on(lines: TextIO, to: queue.Queue) -> None:
    for line in lines:
        to.put(line)
    to.put("")


def _add(count: Count, label: str, result: dict[str, Any]) -> None:
    seconds, size = result.get("seconds", 0.0), result.get("bytes", 0)
    count.tried += 1
    count.seconds += seconds
    count.slowest, count.most_bytes = max(count.slowest, seconds), max(count.most_bytes, size)
    if result["fault"]:
        count.faults.append(f"{label}: {result['fault']}")
    else:
        setattr(count, result["became"], getattr(count, result["became"]) + 1)


def _status(key: str) -> int:
    with open("/proc/self/status") as file:
        lines = dict(line.split(":", 1) for line in file)
    return int(lines[key].split()[0]) * 1024


def _reset_peak() -> int:
    """Begins to measure the peak of the memory anew; what is in use now."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmHWM")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--part", type=float, default=1.0, help="share of what is drawn")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn")
    parser.add_argument("--only", default="", help="kinds that begin so")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--skip", type=int, default=0, help=argparse.SUPPRESS)
    given = parser.parse_args()
    plan = Plan(given.part, given.seed, given.only)
    if given.work:
        warnings.simplefilter("ignore")
        with open(os.dup(1), "w") as results, open(os.devnull, "w") as nothing:
            os.dup2(nothing.fileno(), 1)
            work(given.work, plan, given.skip, results)
        return 0
    began = time.monotonic()
    counts = try_all(plan)
    columns = ("tried", "same", "refused", "other", "faults", "a minute", "slowest", "most memory")
    print(f"{'target':<18}{'kind':<18}" + "".join(f"{name:>12}" for name in columns))
    total = Count("all", "")
    for count in [*counts, total]:
        if count is not total:
            for name in ("tried", "same", "refused", "other", "faults", "seconds"):
                setattr(total, name, getattr(total, name) + getattr(count, name))
            total.slowest = max(total.slowest, count.slowest)
            total.most_bytes = max(total.most_bytes, count.most_bytes)
        rate = 60 * count.tried / count.seconds if count.seconds else 0
        cells = [count.tried, count.same, count.refused, count.other, len(count.faults)]
        print(
            f"{count.target:<18}{count.kind:<18}"
            + "".join(f"{cell:>12,}" for cell in cells)
            + f"{rate:>12,.0f}{count.slowest:>10.2f} s{count.most_bytes / 2**20:>9.0f} MB"
        )
    print(f"{total.tried:,} alterations in {time.monotonic() - began:.0f} s")
    for count in counts:
        for fault in count.faults[:20]:
            print(f"  {count.target}, {count.kind}: {fault}")
    return int(bool(total.faults))


if __name__ == "__main__":
    sys.exit(main())
