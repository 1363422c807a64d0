"""A settings file as text: one setting changes, every other byte stays, comments too."""

import textwrap
from collections.abc import Mapping
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.compat import StringIO
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode

Key = tuple[str, ...]
"""The names of a setting, from the top of the file down."""
WIDTH = 100


def in_flow(value: Any) -> str:
    """A value in one line of YAML."""
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = True
    yaml.width = 1 << 20
    yaml.sort_base_mapping_type_on_output = False
    stream = StringIO()
    yaml.dump(value, stream)
    return stream.getvalue().removesuffix("...\n").strip()


def with_setting(text: str, path: Key, value: Any) -> str:
    """The text with the setting at ``path``, which is changed where it is or added to its block."""
    node, depth, pair = _walk(text, path)
    if depth == len(path):
        key, old = pair
        return _replaced(text, node, key, old, path[-1], value)
    for name in reversed(path[depth + 1 :]):
        value = {name: value}
    if pair is not None and not isinstance(pair[1], MappingNode):  # a block that is null
        return _replaced(text, node, *pair, path[depth - 1], {path[depth]: value})
    inner = pair[1] if pair is not None else node
    return _added(text, inner, path[depth], value)


def without_setting(text: str, path: Key) -> str:
    """The text without the setting at ``path``, nor blocks that it leaves empty."""
    node, depth, pair = _walk(text, path)
    if depth < len(path):
        return text
    key, old = pair
    if len(node.value) == 1 and len(path) > 1:
        return without_setting(text, path[:-1])
    if node.flow_style:
        kept = [text[_start(k) : _end(text, k, v)] for k, v in node.value if k is not key]
        return text[: _start(node)] + "{" + ", ".join(kept) + "}" + text[node.end_mark.index :]
    first = text.rfind("\n", 0, _start(key)) + 1
    after = text.find("\n", _end(text, key, old))
    return text[:first] + (text[after + 1 :] if after >= 0 else "")


def _walk(text: str, path: Key) -> tuple[Any, int, Any]:
    """How far ``path`` is there: the mapping of the last key that is, how many keys are, and that
    last key and its value (None: not one is)."""
    node: Any = YAML(typ="safe", pure=True).compose(text)
    parent, pair = node, None
    for depth, name in enumerate(path):
        inner = pair[1] if pair else node
        if not isinstance(inner, MappingNode):
            return parent, depth, pair
        there = [(key, value) for key, value in inner.value if key.value == name]
        if not there:
            return (parent if pair else inner), depth, pair
        parent, pair = inner, there[0]
    return parent, len(path), pair


def _start(node: Node) -> int:
    return node.start_mark.index


def _end(text: str, key: Node, value: Node) -> int:
    """Where the last character of a setting is; a block's own mark is behind comments after it."""
    while isinstance(value, MappingNode) and not value.flow_style:
        key, value = value.value[-1]
    if isinstance(value, ScalarNode) or value.flow_style:
        if value.start_mark.index == value.end_mark.index:  # nothing is written behind the key
            return text.index(":", key.end_mark.index) + 1
        return len(text[: value.end_mark.index].rstrip())
    return len(_uncommented(text[: value.end_mark.index]))


def _uncommented(text: str) -> str:
    """A text without the blank and comment lines at its end."""
    lines = text.rstrip().split("\n")
    while lines and (not lines[-1].strip() or lines[-1].lstrip().startswith("#")):
        lines.pop()
    return "\n".join(lines)


def _replaced(text: str, parent: Any, key: Node, old: Node, name: str, value: Any) -> str:
    end, indent = _end(text, key, old), key.start_mark.column
    at = text.index(":", key.end_mark.index) + 1
    if parent.flow_style:
        return f"{text[:at]} {in_flow(value)}{text[end:]}"
    block = isinstance(old, MappingNode) and not old.flow_style
    about = _comment(text, at) if block else _comment(text, end)
    rest = text[end:] if block else text[end + len(about) :]
    if isinstance(value, Mapping) and value:
        lines = _lines(name, value, indent).lstrip()
        head, gap, below = lines.partition("\n")
        return text[: _start(key)] + head + about + gap + below + rest
    return f"{text[:at]} {_folded(name, value, indent)}{about}{rest}"


def _comment(text: str, at: int) -> str:
    """The comment on the line that goes on at ``at``, with the blanks before it."""
    line = text[at:].partition("\n")[0]
    return line if line.lstrip().startswith("#") else ""


def _added(text: str, mapping: Any, name: str, value: Any) -> str:
    if not isinstance(mapping, MappingNode) or not mapping.value:
        gap = "" if not text or text.endswith("\n") else "\n"
        return text + gap + _lines(name, value, 0) + "\n"
    if mapping.flow_style:
        at = mapping.end_mark.index - 1
        return text[:at].rstrip() + f", {in_flow(name)}: {in_flow(value)}" + text[at:]
    lines = _lines(name, value, mapping.value[0][0].start_mark.column)
    at = text.find("\n", _end(text, *mapping.value[-1]))
    return f"{text}\n{lines}\n" if at < 0 else f"{text[:at]}\n{lines}{text[at:]}"


def _lines(name: str, value: Any, indent: int) -> str:
    """A setting as lines of a block."""
    key = " " * indent + in_flow(name)
    if isinstance(value, Mapping) and value and len(f"{key}: {in_flow(value)}") > WIDTH:
        below = [_lines(inner, of, indent + 2) for inner, of in value.items()]
        return "\n".join([f"{key}:", *below])
    if isinstance(value, Mapping) and any(isinstance(of, Mapping) for of in value.values()):
        below = [_lines(inner, of, indent + 2) for inner, of in value.items()]
        return "\n".join([f"{key}:", *below])
    return f"{key}: {_folded(name, value, indent)}"


def _folded(name: str, value: Any, indent: int) -> str:
    """A value in flow style; a long list goes on in further lines, deeper than its key."""
    flow = in_flow(value)
    if not isinstance(value, list) or len(flow) + indent + len(name) + 2 <= WIDTH:
        return flow
    width = WIDTH - indent - 2
    lines = textwrap.wrap(
        " " * (len(name) + 2) + flow,
        width,
        drop_whitespace=True,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return ("\n" + " " * (indent + 2)).join([lines[0].strip(), *lines[1:]])
