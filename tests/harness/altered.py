"""Feeds ingest with every fault that a log may have, and counts what became of every line.

    python -m tests.harness.altered

Every byte of a small file of each format is altered in several ways, and the whole ingest is run
on each; then come the faults that no single byte makes: swapped columns, headers, line ends, marks,
long lines, long numbers, empty days and columns, cut-off gzip, a full disk; and the forms of
:mod:`tests.harness.forms`, for every reader. Lines are counted here by their line ends alone, those
with quotes by a reference. An input counts as accounted for where every line was written, set aside
with its reason, or the whole was refused in one message that names the file.
"""

import argparse
import contextlib
import gzip
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from core import console
from core.errors import UserError
from core.settings import validate
from pipeline.ingest.source import SourceSettings
from pipeline.stages.ingest import RECIPES, ingest
from tests.harness import forms
from tests.ingest import csv_reference

BYTES = (0x00, 0x09, 0x0A, 0x0D, 0x22, 0x2C, 0x2D, 0x30, 0x67, 0xFF)
"""NUL, tab, both line ends, quote, comma, minus, a digit, a letter beyond hex, no UTF-8."""
LENIENT = {"max_bad_fraction": 1.0, "workers": 1}


@dataclass
class Count:
    """What became of the inputs of one kind."""

    kind: str
    inputs: int = 0
    lines: int = 0
    written: int = 0
    quarantined: int = 0
    refused: int = 0
    faults: list[str] = field(default_factory=list)


@dataclass
class Bench:
    """Runs ingest in a scratch folder and counts."""

    folder: Path
    counts: dict[str, Count] = field(default_factory=dict)

    def try_input(
        self,
        kind: str,
        recipe: str,
        content: bytes | dict[str, bytes],
        settings: dict[str, Any],
        headers: int = 0,
        lines: int | None = None,
    ) -> dict[str, Any] | None:
        """Ingests one log (a file's bytes, or files by name) and accounts for its lines.

        Args:
            content: a file's bytes, or those of several by their paths.
            headers: lines a file that are no rows.
            lines: how many there are, where the bytes do not tell (gzip); -1: as many as are read.

        Returns:
            The manifest, or None if the log was refused.
        """
        count = self.counts.setdefault(kind, Count(kind))
        files = content if isinstance(content, dict) else {"log.txt": content}
        log = self.folder / "log"
        shutil.rmtree(log, ignore_errors=True)
        for name, data in files.items():
            (log / name).parent.mkdir(parents=True, exist_ok=True)
            (log / name).write_bytes(data)
        expected = sum(max(0, lines_of(data) - headers) for data in files.values())
        expected = expected if lines is None else lines
        count.inputs += 1
        count.lines += max(0, expected)
        checked = validate(RECIPES[recipe], {**LENIENT, **settings}, "harness")
        return self._ingest(count, recipe, checked, log, expected)

    def _ingest(
        self, count: Count, recipe: str, settings: SourceSettings, log: Path, expected: int
    ) -> dict[str, Any] | None:
        output = self.folder / "raw"
        try:
            manifest = ingest(recipe, settings, log, output)
        except UserError as error:
            count.refused += max(0, expected)
            named = (str(log), "no line", "source.")  # the file, or a setting of the whole log
            if not any(part in str(error) for part in named):
                count.faults.append(f"refused without naming the file: {error}")
            return None
        except Exception as error:  # the very thing looked for
            count.faults.append(f"{type(error).__name__}: {error}")
            return None
        written = sum(pq.read_metadata(path).num_rows for path in output.glob("part-*.parquet"))
        bad = output / "quarantine.parquet"
        quarantined = pq.read_metadata(bad).num_rows if bad.exists() else 0
        if expected < 0:
            expected = manifest["rows_read"]
            count.lines += expected
        count.written += written
        count.quarantined += quarantined
        if written + quarantined != expected or manifest["rows_read"] != expected:
            count.faults.append(f"{expected} lines, but {written} written, {quarantined} set aside")
        return manifest


def lines_of(data: bytes) -> int:
    return data.count(b"\n") + bool(data and not data.endswith(b"\n"))


def records_of(data: bytes, separator: str = ",", limit: int = 1 << 20) -> int:
    """Records below the header row of a CSV text; a malformed one's lines count each."""
    header, _, body = data.partition(b"\n")
    width = header.count(separator.encode()) + 1
    return len(csv_reference.read(body, separator, width, limit, 2))


# small logs


def criteo(rows: int, seed: int = 0) -> list[list[str]]:
    draw = random.Random(seed)
    log = []
    for _ in range(rows):
        integers = [
            "" if draw.random() < 0.2 else str(draw.randrange(-2, 10**4)) for _ in range(13)
        ]
        codes = ["" if draw.random() < 0.2 else f"{draw.randrange(1 << 32):08x}" for _ in range(26)]
        log.append([str(draw.randrange(2)), *integers, *codes])
    return log


def text(rows: list[list[str]], separator: str = "\t", end: str = "\n") -> bytes:
    return "".join(separator.join(row) + end for row in rows).encode()


CLICKS = [
    ["session_id", "item_id", "timestamp"],
    ["a", '"x, y"', "1700000000"],
    ["é", "12", "1700000001"],
    ["b", "13", "1700000002"],
]
JSON = b"".join(
    b'{"session_id": "%s", "item_id": %s, "timestamp": %s}\n' % values
    for values in ((b"a", b"12", b"1700000000"), (b"b", b"13", b"1700000001"))
)


def every_byte(bench: Bench, thorough: bool) -> None:
    """Every byte of a small file of each format altered; one byte deleted; the file cut there."""
    formats = (
        ("Criteo", "ranking", text(criteo(3)), {}, 0),
        ("CSV", "sessions", text(CLICKS, ","), {"separator": ",", "format": "csv"}, 1),
        ("JSON lines", "sessions", JSON, {"format": "jsonl"}, 0),
    )
    for name, recipe, data, settings, headers in formats:
        values = BYTES if thorough else BYTES[::3]
        for index in range(0, len(data), 1 if thorough else 13):
            before, after = data[:index], data[index + 1 :]
            for byte in (*values, data[index] ^ 1):
                altered = before + bytes([byte]) + after
                lines = records_of(altered) if headers else None
                kind = f"{name}: a byte altered"
                bench.try_input(kind, recipe, altered, settings, headers, lines)
            for kind, altered in (("a byte lost", before + after), ("cut off", before)):
                lines = records_of(altered) if headers else None
                bench.try_input(f"{name}: {kind}", recipe, altered, settings, headers, lines)
    packed = gzip.compress(text(criteo(20)), mtime=0)
    for length in range(0, len(packed), 1 if thorough else 59):
        _cut_gzip(bench, packed, length)


def _cut_gzip(bench: Bench, packed: bytes, length: int) -> None:
    """Whole lines before the cut are written; the one that was cut is set aside."""
    import zlib

    reachable = zlib.decompressobj(31).decompress(packed[:length])
    log = {"log.bin": packed[:length]} if length > 1 else {"log.bin": b""}
    bench.try_input("gzip: cut off", "ranking", log, {}, lines=lines_of(reachable))


# faults of other kinds


def whole_faults(bench: Bench) -> None:
    rows = criteo(40)
    swapped = [[*row[1:14], row[0], *row[14:]] for row in rows]
    names = ["label", *(f"I{n}" for n in range(1, 14)), *(f"C{n}" for n in range(1, 27))]
    blank = [[*row[:5], "", *row[6:]] for row in rows]
    long = text(rows[:5]) + b"7" * 10_000_000 + b"\n" + text(rows[5:])
    beyond = [[row[0], "9" * (10 + n), *row[2:]] for n, row in enumerate(rows[:20])] + rows[20:]
    days = {f"day_{n}": text(criteo(5, n)) if n != 1 else b"" for n in range(3)}
    cases: list[tuple[str, bytes | dict[str, bytes], dict[str, Any]]] = [
        ("columns swapped", text(swapped), {}),
        ("a header row", text([names, *rows]), {}),
        ("Windows line ends", text(rows, end="\r\n"), {}),
        ("a byte-order mark", b"\xef\xbb\xbf" + text(rows), {}),
        ("UTF-16", text(rows).decode().encode("utf-16"), {}),
        ("a line of 10 MB", long, {"block_bytes": 100_000}),
        ("numbers beyond 64 bits", text(beyond), {}),
        ("an empty day among days", days, {}),
        ("a column of nulls", text(blank), {}),
        ("another separator", text(rows, ","), {}),
        ("NUL bytes", text(rows).replace(b"\n", b"\0\n", 7), {}),
        ("no line end at the end", text(rows)[:-1], {}),
        ("blank lines", text(rows).replace(b"\n", b"\n\n"), {}),
        ("random bytes", random.Random(1).randbytes(100_000), {}),
        ("nothing but line ends", b"\n" * 1000, {}),
    ]
    for kind, content, settings in cases:
        bench.try_input(kind, "ranking", content, settings)
    clicks = [CLICKS[0], *([f"s{n}", str(n), "9" * (5 + n)] for n in range(25))]
    bench.try_input("CSV: times of any length", "sessions", text(clicks, ","), {}, 1)
    nulls = [CLICKS[0], *([f"s{n}", "", "1700000000"] for n in range(25))]
    bench.try_input("CSV: no item at all", "sessions", text(nulls, ","), {}, 1)


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file may grow beyond ``size`` bytes: writing fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Python would write half of a compiled module, and fail on it ever after.
    compiles, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        sys.dont_write_bytecode = compiles
        signal.signal(signal.SIGXFSZ, old)


def no_room(bench: Bench) -> None:
    """A disk without room: one clear message, no half output, and the next run ends right."""
    content = {f"day_{n}": text(criteo(4000, n)) for n in range(3)}
    count = bench.counts.setdefault("a full disk", Count("a full disk"))
    full = 0
    for size in (1000, 50_000, 100_000, 400_000):
        for old in bench.folder.glob("raw/*"):
            old.unlink()
        (bench.folder / "log").mkdir(exist_ok=True)
        for old in (bench.folder / "log").iterdir():
            old.unlink()
        for name, data in content.items():
            (bench.folder / "log" / name).write_bytes(data)
        settings = RECIPES["ranking"](rows_per_shard=1000, workers=1)
        refused = ""
        with largest_file(size):
            try:
                ingest("ranking", settings, bench.folder / "log", bench.folder / "raw")
            except UserError as error:
                refused = str(error)
        full += bool(refused)
        if refused and "no room left" not in refused:
            count.faults.append(refused)
        if refused and any(bench.folder.glob("raw/*")):
            count.faults.append(f"{size} bytes: something half-written was left")
        if bench.try_input("a full disk", "ranking", content, {"rows_per_shard": 1000}) is None:
            count.faults.append("the run with room was refused")
    if not full:
        count.faults.append("the disk was never full")


def interrupted(bench: Bench) -> None:
    """Ctrl-C at several moments: nothing half-written, and the next run ends right."""
    content = {f"day_{n}": text(criteo(4000, n)) for n in range(3)}
    count = bench.counts.setdefault("Ctrl-C", Count("Ctrl-C"))
    settings = {"rows_per_shard": 1000, "block_bytes": 50_000}
    for delay in (0.005, 0.02, 0.05, 0.1, 0.2):
        for old in bench.folder.glob("raw/*"):
            old.unlink()
        signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
        signal.setitimer(signal.ITIMER_REAL, delay)
        try:
            bench.try_input("Ctrl-C", "ranking", content, settings)
        except KeyboardInterrupt:
            if any(bench.folder.glob("raw/*")):
                count.faults.append("something half-written was left")
            count.refused += count.lines - count.written - count.quarantined - count.refused
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        bench.try_input("Ctrl-C", "ranking", content, settings)


def try_all(thorough: bool = True) -> list[Count]:
    """All of it; not ``thorough``: some bytes only."""
    quiet, console.out.quiet = console.out.quiet, True
    steps: list[Callable[[Bench], None]] = [whole_faults, no_room, interrupted]
    try:
        # In memory where that can be: thousands of small files are written to the last byte.
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        with tempfile.TemporaryDirectory(prefix="altered-", dir=memory) as name:
            bench = Bench(Path(name))
            for step in steps:
                step(bench)
            every_byte(bench, thorough)
            forms.every_form(bench, thorough)
            return list(bench.counts.values())
    finally:
        console.out.quiet = quiet


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="every thirteenth byte only")
    begin = time.monotonic()
    counts = try_all(thorough=not parser.parse_args().quick)
    names = ("inputs", "lines", "written", "quarantined", "refused")
    total = Count("all")
    for count in counts:
        for name in names:
            setattr(total, name, getattr(total, name) + getattr(count, name))
        total.faults += [f"{count.kind}: {fault}" for fault in count.faults]
    print(f"{'kind':<28}" + "".join(f"{name:>12}" for name in names))
    for count in [*counts, total]:
        print(f"{count.kind:<28}" + "".join(f"{getattr(count, name):>12,}" for name in names))
    accounted = total.written + total.quarantined + total.refused
    seconds = time.monotonic() - begin
    print(
        f"{total.inputs:,} inputs tried; {accounted:,} of {total.lines:,} lines accounted for; "
        f"{len(total.faults)} faults; {seconds:.0f} s"
    )
    for fault in total.faults[:50]:
        print(f"  {fault}")
    return int(bool(total.faults))


if __name__ == "__main__":
    sys.exit(main())
