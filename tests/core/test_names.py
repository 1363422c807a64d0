"""Keys made of names: safe for torch and for files, one for each name."""

import re
import unicodedata

from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from core.names import LONGEST, TORCH, file_keys, key_of, name_of

ODD = [
    *(
        "",
        ".",
        "..",
        "~",
        "~~",
        "/",
        "a/b",
        "a\\b",
        "user/id",
        "product.type",
        "x" * 300,
        "x" * 301,
    ),
    *("two\nlines", "nul\0name", "100%", "~74ype", "type", "__class__", "[1]", "*", "con", "a b"),
    *(unicodedata.normalize(form, "naïve") for form in ("NFC", "NFD")),
]
names = st.one_of(st.sampled_from(ODD), st.sampled_from(sorted(TORCH)), st.text(max_size=150))


@settings(max_examples=500, deadline=None)
@given(st.lists(names, unique=True, max_size=8))
def test_keys_are_safe_and_differ(chosen):
    keys = [key_of(name) for name in chosen]
    assert len(set(keys)) == len(chosen)
    modules, weights = nn.ModuleDict(), nn.ParameterDict()
    for name, key in zip(chosen, keys, strict=True):
        assert re.fullmatch(r"[A-Za-z0-9_~-]+", key) and len(key) <= LONGEST
        modules[key], weights[key] = nn.Identity(), nn.Parameter()
        assert name_of(key) == name or "~~" in key
    files = file_keys(chosen)
    assert len({key.lower() for key in files.values()}) == len(chosen)


def test_safe_names_stay():
    for name in ("item_id", "C1", "user-id", "_id", "Category2", "0", "label"):
        assert key_of(name) == name and file_keys([name]) == {name: name}


def test_names_that_differ_in_capitals_alone():
    keys = file_keys(["brand", "Brand", "BRAND"])
    assert keys["BRAND"] == "BRAND"
    assert len({key.lower() for key in keys.values()}) == 3


def test_no_name_of_torch_is_a_key():
    for container in (nn.ModuleDict(), nn.ParameterDict(), nn.ModuleList()):
        taken = {name for name in dir(container) if not name.startswith("__")}
        assert not {name for name in taken if key_of(name) == name}
