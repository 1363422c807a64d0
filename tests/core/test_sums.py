"""A folder is what its manifest says, or it is refused."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import UserError
from core.sums import Contents, Replaced, files_below, is_inside, reading, sums_of, write_manifest


def make(folder, text="one"):
    (folder / "state").mkdir(parents=True, exist_ok=True)
    (folder / "part.bin").write_text(text)
    (folder / "state" / "a.json").write_text("{}")
    write_manifest(folder / "m.json", {"rows": 3}, sums_of(folder, ["part.bin", "state/a.json"]))
    return folder


def opened(folder):
    return Contents(folder, "m.json", "preprocess")


def test_an_untouched_folder_passes_every_check(tmp_path):
    contents = opened(make(tmp_path))
    contents.check_sizes()
    contents.check_all()
    contents.confirm()
    assert contents.record["rows"] == 3
    assert files_below(tmp_path) == ["m.json", "part.bin", "state/a.json"]


@pytest.mark.parametrize("name", ["part.bin", "state/a.json"])
def test_what_was_altered_removed_or_linked_is_named(tmp_path, name):
    folder = make(tmp_path / "f")
    contents, path = opened(folder), folder / name
    before = path.read_bytes()
    path.write_bytes(before[:-1] + b"?")
    contents.check_sizes()
    with pytest.raises(UserError, match=r"checksum does not match.*preprocess' again"):
        contents.check(name)
    path.write_bytes(before + b"?")
    with pytest.raises(UserError, match=r"bytes, .* were written"):
        contents.check_sizes()
    path.unlink()
    with pytest.raises(UserError, match="is not there"):
        contents.check_sizes([name])
    (tmp_path / "outside").write_bytes(before)
    os.symlink(tmp_path / "outside", path)
    with pytest.raises(UserError, match="is a link"):
        contents.check(name)


def test_a_folder_reached_by_a_link_inside_is_refused(tmp_path):
    folder = make(tmp_path / "f")
    (folder / "state").rename(tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", folder / "state")
    with pytest.raises(UserError, match="is a link"):
        opened(folder).check("state/a.json")


def test_what_was_replaced_is_read_again(tmp_path):
    contents = opened(make(tmp_path))
    make(tmp_path, "two")
    with pytest.raises(Replaced):
        contents.confirm()
    with pytest.raises(Replaced):
        contents.check("part.bin")
    tries = []

    def read():
        tries.append(1)
        one = opened(tmp_path)
        if len(tries) == 1:
            make(tmp_path, "three")
        return one.check("part.bin").read_text()

    assert reading(read) == "three" and len(tries) == 2


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_altered_byte_of_a_manifest_is_harmless_or_refused(tmp_path_factory, data):
    folder = make(tmp_path_factory.mktemp("m"))
    path = folder / "m.json"
    whole = path.read_bytes()
    before = opened(folder).record
    at = data.draw(st.integers(0, len(whole) - 1))
    byte = bytes([data.draw(st.integers(0, 255))])
    altered = data.draw(
        st.sampled_from([whole[:at] + byte + whole[at + 1 :], whole[:at] + whole[at + 1 :]])
    )
    path.write_bytes(altered)
    try:
        found = opened(folder).record
    except UserError as error:
        assert "m.json" in str(error)
    else:
        assert found == before


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "", ".", "a//b", "./a"])
def test_names_that_leave_the_folder_are_refused(tmp_path, name):
    assert not is_inside(name)
    write_manifest(tmp_path / "m.json", {}, {name: {"bytes": 1, "sha256": "0"}})
    with pytest.raises(UserError, match="no path within the folder"):
        opened(tmp_path)
