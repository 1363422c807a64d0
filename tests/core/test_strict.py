"""JSON of a stranger is plain and bounded, or refused with the file's name."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import strict
from core.errors import UserError
from core.settings import Settings
from core.strict import ClosedRecord, Record, checked, parse, read_plain

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda below: st.lists(below, max_size=4) | st.dictionaries(st.text("ab"), below, max_size=4),
    max_leaves=20,
)


@given(plain)
def test_plain_json_is_what_json_reads(value):
    assert parse(json.dumps(value), "x.json") == value
    assert parse(json.dumps(value, ensure_ascii=False).encode(), "x.json") == value


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 100_000,
        b"[" * 80 + b"]" * 80,
        b'{"a":' * 900 + b"1" + b"}" * 900,
        b"9" * 5000,
        b"9" * 40,
        b"1e999",
        b"NaN",
        b"-Infinity",
        b'"\xff"',
        b'"\\ud800"',
        b'{"\\udfff": 1}',
        b"",
        b"{",
        '{"a": 1}'.encode("utf-16"),
    ],
)
def test_other_json_is_refused(tmp_path, text):
    (tmp_path / "x.json").write_bytes(text)
    with pytest.raises(UserError, match=r"x\.json: not valid JSON") as error:
        read_plain(tmp_path / "x.json")
    str(error.value).encode()


@given(st.binary(max_size=40))
def test_any_bytes_are_json_or_refused(text):
    try:
        parse(text, "x.json")
    except UserError as error:
        assert str(error).startswith("x.json: ")


def test_a_file_is_read_as_far_as_it_may_be_long(tmp_path):
    (tmp_path / "x.json").write_text("[1, 2, 3]")
    assert read_plain(tmp_path / "x.json", 9) == [1, 2, 3]
    for path, longest, what in (
        (tmp_path / "x.json", 8, "more than 8 bytes"),
        (tmp_path / "absent", 9, "no such file"),
        (tmp_path, 9, "cannot be read"),
    ):
        with pytest.raises(UserError, match=what):
            read_plain(path, longest)


class Inner(ClosedRecord):
    rows: int


class Outer(Record):
    name: str
    inner: list[Inner]
    ratio: float = 0.0


def test_a_record_names_the_key_that_is_wrong():
    right = {"name": "a", "inner": [{"rows": 3}], "more": 1}
    assert checked(Outer, right, "m.json").inner[0].rows == 3
    for wrong, message in (
        ({**right, "name": 3}, r"m\.json: name: .*string, got 3"),
        ({**right, "inner": [{"rows": "3"}]}, r"inner\.0\.rows: .*integer, got '3'"),
        ({**right, "inner": [{"rows": True}]}, r"inner\.0\.rows"),
        ({**right, "inner": [{"rows": 3, "x": 1}]}, r"inner\.0\.x: extra inputs"),
        ({**right, "ratio": "1"}, r"m\.json: ratio"),
        ({"inner": []}, r"m\.json: name: field required"),
        ([], r"m\.json: \(top level\): .*got an array"),
        ({**right, "name": ["x"] * 10**5}, r"got an array$"),
    ):
        with pytest.raises(UserError, match=message):
            checked(Outer, wrong, "m.json")


class Some(Settings):
    width: int = 1


def test_settings_name_the_file():
    assert strict.settings(Some, {"width": 2}, "m.json: settings").width == 2
    for wrong in ({"width": "x"}, {"widht": 1}, {"width": None}):
        with pytest.raises(UserError, match=r"m\.json: settings: .*widt?h"):
            strict.settings(Some, wrong, "m.json: settings")
