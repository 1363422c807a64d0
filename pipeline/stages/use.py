"""Lays a recipe over params.yaml: other lines stay as they are, a former recipe's settings go."""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.compat import StringIO

from core.artifacts import write_json, write_text
from core.console import say
from core.errors import UserError
from core.settings import read_yaml
from core.strict import ClosedRecord, checked, read_plain
from pipeline import layout
from pipeline.params import PARAMS_FILE, REPLACED_WHOLE, Params
from pipeline.yaml_text import Key, in_flow, with_setting, without_setting

ABSENT: Any = object()
NOTHING: Mapping[str, Any] = {"recipe": None, "set": []}
"""The record of a file that no recipe was laid over."""


class UseRecord(ClosedRecord):
    """What ``.params.yaml.use`` has to hold."""

    recipe: str | None
    set: list[dict[str, Any]]
    """Of each setting its ``key``, what the recipe set it to (``now``) and, if it was there, what
    it was (``before``)."""
    text: str
    """SHA-256 of the settings file before this recipe was laid over it."""
    earlier: dict[str, Any]
    """``recipe`` and ``set`` of that file."""


def use(
    recipe: str | Path, params_file: str | Path = PARAMS_FILE, source: str | Path | None = None
) -> None:
    """Writes the settings of the file ``recipe`` into ``params_file``; others stay as they are.

    What a former recipe set is put back to what it was before. What was changed by hand since then
    stays, and so does a ``source.path`` of one's own. ``.params.yaml.use`` next to the file holds
    what that needs; it is written first, so that a run that is killed loses nothing of it.

    Args:
        source: the log, in the place of the recipe's ``source.path``.

    Raises:
        UserError: the recipe has an unknown or wrong setting; nothing is written then.
    """
    params_file, recipe = Path(params_file), str(recipe)
    over = read_yaml(recipe)
    Params(over, recipe)
    text = params_file.read_text(encoding="utf-8") if params_file.exists() else ""
    tree = read_yaml(params_file) if params_file.exists() else {}
    file = Edited(text, tree)
    record_file = params_file.with_name(f".{params_file.name}.use")
    former = _former(record_file, file)
    own = _put_back(file, former)
    again = former["recipe"] == recipe
    written = _lay(file, over, own if again else {}, keep_paths=former["recipe"] is None)
    if source is not None:
        file.set(_path_key(over, recipe), str(source))
    Params(file.tree, f"{recipe} over {params_file}").check()
    now = {"recipe": recipe, "set": written, "text": _digest(text)}
    write_json(record_file, {**now, "earlier": former})
    write_text(params_file, file.text_checked())
    _say_what_changed(file, recipe, params_file, former, again, own, written)


def _former(record_file: Path, file: "Edited") -> Mapping[str, Any]:
    """``recipe`` and ``set`` of the recipe that was laid over the file, as the file is now."""
    if not record_file.exists():
        return NOTHING
    record = checked(UseRecord, read_plain(record_file), record_file)
    if record.text == _digest(file.text):  # killed before the file was written, or put back since
        return record.earlier
    restored = all(file.get(tuple(e["key"])) == e.get("before", ABSENT) for e in record.set)
    return NOTHING if restored else {"recipe": record.recipe, "set": record.set}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


class Edited:
    """A settings file, as text and as a tree, while settings of it change."""

    def __init__(self, text: str, tree: dict[str, Any]):
        self.text, self.tree, self.first = text, _copied(tree), text

    def get(self, key: Key) -> Any:
        value: Any = self.tree
        for name in key:
            if not isinstance(value, Mapping) or name not in value:
                return ABSENT
            value = value[name]
        return value

    def set(self, key: Key, value: Any) -> None:
        if self.get(key) == value and type(self.get(key)) is type(value):
            return
        self.text = with_setting(self.text, key, value)
        block = self.tree
        for name in key[:-1]:
            if not isinstance(block.get(name), dict):
                block[name] = {}
            block = block[name]
        block[key[-1]] = value

    def delete(self, key: Key) -> None:
        if self.get(key) is ABSENT:
            return
        self.text = without_setting(self.text, key)
        block = self.get(key[:-1]) if len(key) > 1 else self.tree
        del block[key[-1]]
        if not block and len(key) > 1:
            self.tree = _copied(self.tree)
            _prune(self.tree, key[:-1])

    def text_checked(self) -> str:
        """The text, if it says what the tree does; else one written anew from the tree: where
        anchors or tags in it tie settings to each other."""
        yaml = YAML(typ="safe")
        try:
            if (yaml.load(self.text) or {}) == self.tree:
                return self.text
        except Exception:  # whatever a half-changed text does to the parser
            pass
        stream = StringIO()
        yaml = YAML()
        yaml.width = 100
        yaml.dump(self.tree, stream)
        return stream.getvalue()


def _copied(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _copied(below) for name, below in value.items()}
    return [_copied(below) for below in value] if isinstance(value, list) else value


def _prune(tree: dict[str, Any], key: Key) -> None:
    """Takes the empty block at ``key`` out, and those above that it leaves empty."""
    block: Any = tree
    for name in key[:-1]:
        block = block[name]
    del block[key[-1]]
    if not block and len(key) > 1:
        _prune(tree, key[:-1])


def _put_back(file: Edited, former: Mapping[str, Any]) -> dict[Key, Any]:
    """Puts back what the former recipe set; returns the settings that were changed by hand since,
    which stay, as the record has them."""
    own = {}
    for entry in reversed(former["set"]):
        key = tuple(entry["key"])
        value = file.get(key)
        if value is ABSENT or value != entry["now"]:
            own[key] = entry
        elif "before" in entry:
            file.set(key, entry["before"])
        else:
            file.delete(key)
    return own


def _lay(
    file: Edited, over: Mapping[str, Any], own: Mapping[Key, Any], keep_paths: bool
) -> list[dict[str, Any]]:
    """Sets what the recipe does, but for one's ``own``; returns the record of it."""
    written = []
    for key, value in list(_leaves(over, file)):
        before = file.get(key)
        entry = {"key": list(key), "now": value}
        if before is not ABSENT:
            entry["before"] = before
        if key in own:
            written.append(own[key])
            continue
        written.append(entry)
        if not (keep_paths and _is_own_path(key, before)):
            file.set(key, value)
    return written


def _leaves(over: Mapping[str, Any], file: Edited, before: Key = ()) -> Iterator[tuple[Key, Any]]:
    """The recipe's settings, one by one; a block is one where it takes the place of a value."""
    for name, value in over.items():
        key = (*before, name)
        there = file.get(key)
        block = there is ABSENT or there is None or isinstance(there, Mapping)
        if isinstance(value, Mapping) and value and block and ".".join(key) not in REPLACED_WHOLE:
            yield from _leaves(value, file, key)
        else:
            yield key, _copied(value)


def _is_own_path(key: Key, value: Any) -> bool:
    """Whether a ``source.path`` was pointed at a log of one's own."""
    if key[1:] != ("source", "path") or value in (ABSENT, None):
        return False
    return Path(value) != layout.folder(key[0], "generated") / "log"


def _path_key(over: Mapping[str, Any], recipe: str) -> Key:
    named = [
        name for name, below in over.items() if isinstance(below, Mapping) and name != "cluster"
    ]
    if len(named) != 1:
        raise UserError(
            f"{recipe}: has settings of {', '.join(named) or 'no recipe'}; which source.path is "
            "meant is not clear. Write it into params.yaml"
        )
    return (named[0], "source", "path")


def _say_what_changed(
    file: Edited,
    recipe: str,
    params_file: Path,
    former: Mapping[str, Any],
    again: bool,
    own: Mapping[Key, Any],
    written: list[dict[str, Any]],
) -> None:
    if former["recipe"] is not None and not again:
        say(f"use: what {former['recipe']} had set is as it was before")
    kept = [
        tuple(entry["key"]) for entry in written if file.get(tuple(entry["key"])) != entry["now"]
    ]
    for key in dict.fromkeys((*kept, *(own if again else ()))):
        value = file.get(key)
        shown = "not set" if value is ABSENT else in_flow(value)
        say(f"use: yours stays: {'.'.join(key)}: {shown}")
    for entry in written:
        if entry["key"][1:] == ["source", "path"]:
            log = file.get(tuple(entry["key"]))
            if not (params_file.parent / str(log)).exists():
                say(
                    f"use: {'.'.join(entry['key'])}: {log} does not exist here; point it at your "
                    f"copy of the log ({recipe} says where to get it)"
                )
    say(f"use: {recipe} → {params_file}")
