"""What the ingest tests share."""

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.settings import validate
from pipeline.ingest.clicks import ClickSourceSettings
from pipeline.ingest.clickstream import ClickstreamSourceSettings
from pipeline.stages.ingest import ingest

CLASSES = {"ranking": ClickSourceSettings, "sessions": ClickstreamSourceSettings}


class Ingested:
    """The result of an ingest, read back whole."""

    def __init__(self, folder: Path, manifest: dict) -> None:
        self.manifest = manifest
        self.shards = [pq.read_table(folder / shard["file"]) for shard in manifest["shards"]]
        bad = folder / "quarantine.parquet"
        self.bad = pq.read_table(bad).to_pylist() if bad.exists() else []
        accounted = sum(
            manifest.get(f"rows_{what}", 0)
            for what in ("written", "quarantined", "filtered", "duplicate")
        )
        assert manifest["rows_read"] == accounted
        assert manifest["rows_written"] == sum(table.num_rows for table in self.shards)
        assert manifest["rows_quarantined"] == len(self.bad)

    @property
    def table(self) -> pa.Table:
        return pa.concat_tables(self.shards)

    @property
    def rows(self) -> list[dict]:
        return [row for table in self.shards for row in table.to_pylist()]

    @property
    def reasons(self) -> list[tuple[int, str]]:
        return [(line["line"], line["reason"]) for line in self.bad]


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Ingested]:
    """``run(recipe, input, **settings)``; bad lines are let through unless a setting is given."""

    def ingested(recipe: str, input: object, **settings: object) -> Ingested:
        tree = {"max_bad_fraction": 1.0, "workers": 1, **settings}
        output = tmp_path / "raw"
        checked = validate(CLASSES[recipe], tree, "test")
        return Ingested(output, ingest(recipe, checked, input, output))

    return ingested


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """``write(name, content)`` → a file in a folder of its own; a name in .gz is compressed."""
    folder = tmp_path / "input"
    folder.mkdir()

    def written(name: str, content: bytes | str) -> Path:
        content = content.encode() if isinstance(content, str) else content
        path = folder / name
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        return path

    return written


@pytest.fixture
def real_data() -> Path:
    """The folder of real logs; the test is skipped where it is absent."""
    root = Path(__file__).parents[2]
    folder = Path(os.environ.get("MERLIN_PIPELINE_DATA", root.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real logs at {folder} (MERLIN_PIPELINE_DATA names the folder)")
    return folder
