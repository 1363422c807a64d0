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


def names(folder):
    """What lies in a folder, but for the mark of having been written by a stage."""
    return sorted(path.name for path in folder.iterdir() if path.name != artifacts.MARKER)


def test_a_folder_replaces_the_old_one_as_a_whole(tmp_path):
    path = tmp_path / "out"
    with artifacts.atomic_folder(path) as folder:
        (folder / "a").write_text("1")
    with pytest.raises(RuntimeError), artifacts.atomic_folder(path) as folder:
        (folder / "b").write_text("half")
        raise RuntimeError
    assert names(path) == ["a"]
    # What a killed run left behind is no obstacle and does not end up in the result.
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / "stale").write_text("x")
    with artifacts.atomic_folder(path) as folder:
        (folder / "c").write_text("2")
    assert names(path) == ["c"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("content", [b"", b"not json", b"\xff\xfe"])
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


def test_a_folder_that_no_stage_wrote_is_not_replaced(tmp_path):
    mine = tmp_path / "logs"
    mine.mkdir()
    (mine / "day_0").write_text("precious")
    with (
        pytest.raises(UserError, match="holds day_0, which no stage wrote"),
        artifacts.atomic_folder(mine),
    ):
        pass
    assert (mine / "day_0").read_text() == "precious"
    with pytest.raises(UserError, match="is a file"), artifacts.atomic_folder(mine / "day_0"):
        pass


def test_a_digest_changes_with_content_and_names(tmp_path):
    (tmp_path / "a.py").write_text("x = 1")
    one = artifacts.digest(tmp_path)
    (tmp_path / "a.py").write_text("x = 2")
    two = artifacts.digest(tmp_path)
    (tmp_path / "a.py").rename(tmp_path / "b.py")
    assert len({one, two, artifacts.digest(tmp_path)}) == 3


def test_what_killed_writers_left_can_be_removed(tmp_path):
    (tmp_path / ".a.json.12.partial").write_text("{")
    (tmp_path / "a.json").write_text("{}")
    (tmp_path / ".features.partial").mkdir()
    artifacts.remove_partials(tmp_path)
    artifacts.remove_partials(tmp_path / "absent")
    assert names(tmp_path) == [".features.partial", "a.json"]
