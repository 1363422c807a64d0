"""Files are whole or absent."""

import pyarrow as pa
import pytest

from core import artifacts
from core.errors import UserError


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "x.json"
    artifacts.write_json(path, {"a": 1})
    with pytest.raises(ValueError):
        artifacts.write_json(path, {"a": float("nan")})
    with pytest.raises(RuntimeError), artifacts.atomic_path(path) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert artifacts.read_json(path) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


@pytest.mark.parametrize(
    "content",
    [b"", b"not json", b"\xff\xfe", b"[" * 100_000, b"9" * 5000, b'{"a": NaN}', b"[Infinity]"],
)
def test_broken_files_are_named(tmp_path, content):
    path = tmp_path / "broken"
    path.write_bytes(content)
    with pytest.raises(UserError, match="broken"):
        artifacts.read_json(path)
    with pytest.raises(UserError, match="absent"):
        artifacts.read_json(tmp_path / "absent")


def test_a_folder_without_parquet_says_which_stage_is_missing(tmp_path):
    with pytest.raises(UserError, match="run the stage"):
        artifacts.parquet_files(tmp_path)
    artifacts.write_parquet(tmp_path / "b.parquet", pa.table({"x": [1]}))
    artifacts.write_parquet(tmp_path / "a.parquet", pa.table({"x": [1]}))
    assert [p.name for p in artifacts.parquet_files(tmp_path)] == ["a.parquet", "b.parquet"]


def test_a_digest_changes_with_content_and_names(tmp_path):
    (tmp_path / "a.py").write_text("x = 1")
    one = artifacts.digest(tmp_path)
    (tmp_path / "a.py").write_text("x = 2")
    two = artifacts.digest(tmp_path)
    (tmp_path / "a.py").rename(tmp_path / "b.py")
    assert len({one, two, artifacts.digest(tmp_path)}) == 3


def test_what_killed_writers_left_can_be_removed(tmp_path):
    left = artifacts.temporary_path(tmp_path / "a.json")
    left.write_text("{")
    assert artifacts.temporary_of(left.name) == "a.json"
    others = ("a.json", ".a.json.12.partial", ".b.partial", ".c.0123456789abcdeg.partial")
    for name in others:
        (tmp_path / name).write_text("{}")
    artifacts.remove_partials(tmp_path)
    artifacts.remove_partials(tmp_path / "absent")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(others)
