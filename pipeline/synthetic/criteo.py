"""A click log in the raw Criteo format whose best possible AUC and logloss are known."""

import gzip
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import numba
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, model_validator

from core.artifacts import write_json
from core.settings import Settings
from pipeline.synthetic.bayes import TRUTH_FILE, BayesMeter
from pipeline.synthetic.criteo_teacher import MISSING, Teacher, make_teacher
from pipeline.synthetic.hashing import purpose_key

# Label, 13 integers of at most 11 characters, 26 of 8, each with its separator, and room to spare.
_LINE_BYTES = 420
_TRUTH = pa.schema([("day", pa.int16()), ("label", pa.int8()), ("probability", pa.float32())])
_HEX = np.frombuffer(b"0123456789abcdef", np.uint8)


class CriteoGenerateSettings(Settings):
    """Which synthetic click log to write."""

    rows: int = Field(250_000, ge=1)
    """Rows over all days."""
    days: int = Field(5, ge=1, le=10_000)
    """Files, ``day_0`` onwards, with the same number of rows each (to within one)."""
    seed: int = Field(42, ge=0)
    """Draws and teacher; the same seed gives the same bytes."""
    gzip: bool = False
    """Write ``day_0.gz`` and so on."""
    cardinality_scale: float = Field(0.02, gt=0, le=10)
    """Size of the large vocabularies, against the Criteo Kaggle log's (1: C3 has 10 million)."""
    fresh_share: float = Field(0.06, ge=0, lt=1)
    """Share of a later day's values, in the ten growing columns, that no first day has."""
    positive_rate: float = Field(0.25, gt=0, lt=1)
    """Share of clicks aimed at."""
    bayes_auc: float = Field(0.81, gt=0.55, le=0.95)
    """AUC of the true probabilities aimed at."""
    linear_share: float = Field(0.45, ge=0)
    """Part of the logit's variance that single values carry."""
    pair_share: float = Field(0.2, ge=0)
    """Part of the logit's variance that pairs of values carry."""
    dense_share: float = Field(0.35, ge=0)
    """Part of the logit's variance that the integers carry, by non-linear functions."""
    tail_share: float = Field(0.2, gt=0, le=1)
    """Last part of the rows in time whose best possible scores the manifest gives apart."""
    chunk_rows: int = Field(50_000, ge=1)
    """Rows made at a time; memory is about 1.5 kB times this for each thread. Changes no byte."""
    threads: int = Field(0, ge=0)
    """Threads that make chunks; 0 takes every core. Changes no byte."""

    @model_validator(mode="after")
    def _fits(self) -> "CriteoGenerateSettings":
        if self.rows < self.days:
            raise ValueError(f"rows must be at least days ({self.days}), one row a file")
        if self.linear_share + self.pair_share + self.dense_share <= 0:
            raise ValueError("linear_share, pair_share and dense_share must not all be 0")
        return self


def generate_criteo(
    settings: CriteoGenerateSettings,
    folder: str | Path,
    advance: Callable[[float], None] = lambda rows: None,
) -> dict[str, Any]:
    """Writes ``log/day_<d>[.gz]``, ``truth.parquet`` and ``manifest.json`` into ``folder``.

    ``truth.parquet`` holds one row a line in input order: ``day`` int16, ``label`` int8,
    ``probability`` float32, the true probability that the label was drawn with.

    Args:
        settings: size, seed and shape of the log.
        folder: where to write; made if absent.
        advance: called with the number of rows written after each chunk.

    Returns:
        The manifest.
    """
    folder = Path(folder)
    (folder / "log").mkdir(parents=True, exist_ok=True)
    teacher = make_teacher(
        settings.seed,
        settings.days,
        settings.cardinality_scale,
        settings.fresh_share,
        (settings.linear_share, settings.pair_share, settings.dense_share),
        settings.positive_rate,
        settings.bayes_auc,
    )
    tail_first = settings.rows - max(1, round(settings.rows * settings.tail_share))
    total, tail, by_day, files = BayesMeter(), BayesMeter(), [], []
    with pq.ParquetWriter(folder / TRUTH_FILE, _TRUTH, compression="zstd") as truth:
        for day in range(settings.days):
            name = f"log/day_{day}.gz" if settings.gzip else f"log/day_{day}"
            meter = BayesMeter()
            with ExitStack() as stack:
                file = _open(folder / name, settings.gzip, stack)
                for rows, text, probability, label in _chunks(settings, teacher, day):
                    file.write(text)
                    columns = [np.full(len(rows), day, np.int16), label, probability]
                    truth.write_table(pa.table(columns, schema=_TRUTH))
                    meter.add(probability, label)
                    if rows[-1] >= tail_first:
                        inside = rows >= tail_first
                        tail.add(probability[inside], label[inside])
                    advance(len(rows))
            total.merge(meter)
            by_day.append(meter.scores())
            files.append({"file": name, "rows": by_day[-1]["rows"]})
    bayes = {
        "all": total.scores(),
        "tail": {"first_row": tail_first, **tail.scores()},
        "last_day": by_day[-1],
        "days": by_day,
    }
    manifest = _manifest(settings, teacher, files, bayes)
    write_json(folder / "manifest.json", manifest)
    return manifest


def _manifest(
    settings: CriteoGenerateSettings,
    teacher: Teacher,
    files: list[dict[str, Any]],
    bayes: dict[str, Any],
) -> dict[str, Any]:
    return {
        "recipe": "ranking",
        "format": "criteo",
        "settings": settings.model_dump(exclude={"chunk_rows", "threads"}),
        "rows": settings.rows,
        "positive_rate": bayes["all"]["positive_rate"],
        "files": files,
        "truth": TRUTH_FILE,
        "vocabularies": {f"C{i + 1}": int(size) for i, size in enumerate(teacher.cardinalities)},
        "bayes": bayes,
    }


def _open(path: Path, compress: bool, stack: ExitStack) -> BinaryIO:
    file = stack.enter_context(path.open("wb"))
    if not compress:
        return file
    # No file name and no time in the header: the same log is the same bytes wherever it is made.
    return stack.enter_context(
        gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0, compresslevel=1)
    )


def _chunks(
    settings: CriteoGenerateSettings, teacher: Teacher, day: int
) -> Iterator[tuple[np.ndarray, memoryview, np.ndarray, np.ndarray]]:
    """The chunks of one day in order: row numbers, text, probabilities, labels.

    Threads make them ahead, at most two each, so that memory stays bounded.
    """
    first = settings.rows * day // settings.days
    last = settings.rows * (day + 1) // settings.days
    hash_keys = column_hash_keys(settings.seed)

    def make(start: int) -> tuple[np.ndarray, memoryview, np.ndarray, np.ndarray]:
        rows = np.arange(start, min(start + settings.chunk_rows, last), dtype=np.int64)
        integers, ranks, probability, label = teacher.draw(rows, np.full(len(rows), day))
        buffer = np.empty(len(rows) * _LINE_BYTES, np.uint8)
        length = format_lines(label, integers, ranks, hash_keys, buffer)
        return rows, memoryview(buffer)[:length], probability, label

    threads = settings.threads or os.cpu_count() or 1
    ahead: deque = deque()
    with ThreadPoolExecutor(threads) as pool:
        for start in range(first, last, settings.chunk_rows):
            ahead.append(pool.submit(make, start))
            if len(ahead) >= 2 * threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def column_hash_keys(seed: int) -> np.ndarray:
    """Each categorical column's key for :func:`hash_value`, ``(26,)`` uint32."""
    keys = [int(purpose_key(seed, f"criteo C{i + 1}")) & 0xFFFFFFFF for i in range(26)]
    return np.array(keys, np.uint32)


@numba.njit(cache=True, nogil=True, inline="always")
def hash_value(rank: int, key: int) -> int:
    """The 32 bits written for a value: MurmurHash3's finalizer, so no two of a column collide."""
    x = np.uint32(rank) ^ np.uint32(key)
    x = np.uint32((x ^ (x >> np.uint32(16))) * np.uint32(0x85EBCA6B))
    x = np.uint32((x ^ (x >> np.uint32(13))) * np.uint32(0xC2B2AE35))
    return np.uint32(x ^ (x >> np.uint32(16)))


@numba.njit(cache=True, nogil=True)
def format_lines(label, integers, ranks, hash_keys, buffer):
    """Writes rows as Criteo text into ``buffer`` (uint8); returns the number of bytes used."""
    at = 0
    for row in range(len(label)):
        buffer[at] = 48 + label[row]
        at += 1
        for column in range(integers.shape[1]):
            buffer[at] = 9
            at += 1
            if integers[row, column] != MISSING:
                at = _format_integer(integers[row, column], buffer, at)
        for column in range(ranks.shape[1]):
            buffer[at] = 9
            at += 1
            if ranks[row, column] != MISSING:
                value = hash_value(ranks[row, column], hash_keys[column])
                for digit in range(8):
                    buffer[at + digit] = _HEX[(value >> (28 - 4 * digit)) & 15]
                at += 8
        buffer[at] = 10
        at += 1
    return at


@numba.njit(cache=True, nogil=True, inline="always")
def _format_integer(value, buffer, at):
    if value < 0:
        buffer[at] = 45
        at += 1
        value = -value
    digits, rest = 1, value // 10
    while rest > 0:
        digits += 1
        rest //= 10
    for place in range(digits - 1, -1, -1):
        buffer[at + place] = 48 + value % 10
        value //= 10
    return at + digits
