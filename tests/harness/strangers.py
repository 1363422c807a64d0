"""Folders as a stranger may make them: altered by hand, with checksums that are right again."""

import base64
import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from core.sums import CHECKSUM, FILES, Sums, sum_of, write_manifest
from core.tensors import HASH_PLACE
from tests.harness.targets import Target

Alter = Callable[[Path], None]
"""Alters a folder, and puts its checksums right."""
VALUES: list[Any] = [
    None,
    True,
    [],
    {},
    [[]],
    "",
    "x",
    "../../outside",
    "/etc/passwd",
    "a\0b",
    "NaN",
    -1,
    0,
    1.5,
    10**9,
    2**63,
    10**18,
    10**300,
    1e308,
]
WEIGHTS = "model.safetensors"
BIG = 10**9


def seal(target: Target, folder: Path) -> None:
    """Puts the sums of the manifest right for the files that are there."""
    if not target.manifest:
        return
    path = folder / target.manifest
    try:
        record = json.loads(path.read_text())
        write_manifest(path, record, _sums(folder, record[FILES]))
    except (ValueError, TypeError, KeyError, AttributeError, OSError, RecursionError):
        return  # the manifest itself is what was altered


def _sums(folder: Path, names: Any) -> Sums:
    return {name: sum_of(folder / name) for name in names if (folder / name).is_file()}


def seal_weights(path: Path) -> None:
    """Puts a safetensors file's own checksum right, if it has one."""
    whole = path.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header, data = whole[8 : 8 + length], whole[8 + length :]
    try:
        own = json.loads(header)["__metadata__"]["sha256"].encode()
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return
    path.write_bytes(_sealed(header.replace(own, HASH_PLACE.encode(), 1), data))


def _sealed(header: bytes, data: bytes) -> bytes:
    length = len(header).to_bytes(8, "little")
    digest = hashlib.sha256(length + header + data).hexdigest()
    return length + header.replace(HASH_PLACE.encode(), digest.encode(), 1) + data


def edit_header(path: Path, edit: Callable[[Any], Any]) -> None:
    """Writes a safetensors file's header anew."""
    whole = path.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    header["__metadata__"]["sha256"] = HASH_PLACE
    header = edit(header)
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(_sealed(text, whole[8 + length :]))


# JSON, value by value


def places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """The paths of all values of a JSON value, but for its checksums."""
    yield path
    items = value.items() if isinstance(value, dict) else ()
    items = enumerate(value) if isinstance(value, list) else items
    for key, below in items:
        if not path and key in (FILES, CHECKSUM):
            continue
        yield from places(below, (*path, key))


def altered(value: Any, path: tuple, put: Any) -> Any:
    """``value`` with another one at a path; with a function there, what it makes of the old one."""
    if not path:
        return (None if put is _REMOVED else put(value)) if callable(put) else put
    key, *rest = path
    copy = dict(value) if isinstance(value, dict) else list(value)
    if put is _REMOVED and not rest:
        del copy[key]
    else:
        copy[key] = altered(value[key], tuple(rest), put)
    return copy


def _REMOVED() -> None:
    """Stands for: the key is taken away."""


def _deep(_: Any) -> Any:
    value: Any = 0
    for _ in range(500):
        value = [value]
    return value


def _twice(value: Any) -> Any:
    return [*value, *value] if isinstance(value, list) else [value, value]


def _longer(value: Any) -> Any:
    return value * 1000 if isinstance(value, list | str) else [value] * 1000


def _turned(value: Any) -> Any:
    return value[::-1] if isinstance(value, list | str) else -1


PUTS: list[Any] = [*VALUES, _REMOVED, _deep, _twice, _longer, _turned]


def json_files(target: Target) -> list[str]:
    """The JSON files that are parsed."""
    wanted = {"bundle.json", "model.json", "schema.json", "state.json", target.manifest}
    if target.manifest == "bundle.json":
        wanted -= {"manifest.json"}
    names = [p.relative_to(target.folder).as_posix() for p in target.folder.rglob("*.json")]
    return sorted(name for name in names if name.rpartition("/")[2] in wanted)


def json_alterations(target: Target) -> list[tuple[str, Alter]]:
    """Every value of every JSON file, of the schemas within them and of the weights' header,
    replaced by everything that it should not be."""
    found: list[tuple[str, Alter]] = []
    for name in json_files(target):
        value = json.loads((target.folder / name).read_text())
        for path in places(value):
            found += [_in_file(target, name, path, put) for put in PUTS]
        if name.endswith("state.json"):
            for which in ("input", "output"):
                inner = json.loads(value["schemas"][which])
                for path in places(inner):
                    found += [_in_text(target, name, which, path, put) for put in PUTS]
    for file in target.folder.glob("*.safetensors"):
        header = read_header(file)
        for path in places(header):
            found += [_in_header(target, file.name, path, put) for put in PUTS]
        for key in ("columns", "state"):
            text = header["__metadata__"].get(key)
            for path in places(json.loads(text)) if text else ():
                found += [_in_metadata(target, file.name, key, path, put) for put in PUTS]
    return found


def read_header(file: Path) -> Any:
    """The header of a safetensors file."""
    whole = file.read_bytes()
    return json.loads(whole[8 : 8 + int.from_bytes(whole[:8], "little")])


def _name_of(path: tuple, put: Any) -> str:
    shown = put.__name__ if callable(put) else repr(put)[:40]
    return f"{'.'.join(map(str, path))} := {shown}"


def _in_file(target: Target, name: str, path: tuple, put: Any) -> tuple[str, Alter]:
    def alter(folder: Path) -> None:
        value = altered(json.loads((folder / name).read_text()), path, put)
        (folder / name).write_text(json.dumps(value))
        seal(target, folder)

    return f"{name}: {_name_of(path, put)}", alter


def _in_text(target: Target, name: str, which: str, path: tuple, put: Any) -> tuple[str, Alter]:
    def within(text: str) -> str:
        return json.dumps(altered(json.loads(text), path, put))

    label, alter = _in_file(target, name, ("schemas", which), within)
    return f"{label.partition(' :=')[0]}: {_name_of(path, put)}", alter


def _in_header(target: Target, name: str, path: tuple, put: Any) -> tuple[str, Alter]:
    def alter(folder: Path) -> None:
        edit_header(folder / name, lambda header: altered(header, path, put))
        seal(target, folder)

    return f"{name}: {_name_of(path, put)}", alter


def _in_metadata(target: Target, name: str, key: str, path: tuple, put: Any) -> tuple[str, Alter]:
    def within(text: str) -> str:
        return json.dumps(altered(json.loads(text), path, put))

    label, alter = _in_header(target, name, ("__metadata__", key), within)
    return f"{label.partition(' :=')[0]}: {_name_of(path, put)}", alter


# single bytes, with right checksums


def byte_alteration(target: Target, name: str, draw: random.Random) -> tuple[str, Alter]:
    """One byte of a file altered, removed or doubled, and all checksums put right."""
    size = (target.folder / name).stat().st_size
    at, how, bit = draw.randrange(max(1, size)), draw.randrange(3), draw.randrange(8)

    def alter(folder: Path) -> None:
        path = folder / name
        path.write_bytes(with_byte(path.read_bytes(), at, how, bit))
        if path.suffix == ".safetensors":
            seal_weights(path)
        seal(target, folder)

    return f"{name}: byte {at:,} {('altered', 'removed', 'doubled')[how]}", alter


def with_byte(whole: bytes, at: int, how: int, bit: int) -> bytes:
    """``whole`` with the byte ``at`` altered (0), removed (1) or doubled (2)."""
    byte = whole[at : at + 1]
    put = (bytes([byte[0] ^ 1 << bit]) if byte else b"", b"", byte * 2)[how]
    return whole[:at] + put + whole[at + 1 :]


# whole files


def file_alterations(target: Target, sealed: bool) -> list[tuple[str, Alter]]:
    """Files removed, emptied, swapped, replaced by links and folders."""
    names = [
        path.relative_to(target.folder).as_posix()
        for path in sorted(target.folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    ]
    found: list[tuple[str, Alter]] = []
    for number, name in enumerate(names):
        other = names[(number + 1) % len(names)]
        ways: dict[str, Alter] = {
            "removed": lambda f, n=name: (f / n).unlink(),
            "emptied": lambda f, n=name: (f / n).write_bytes(b""),
            "cut in half": lambda f, n=name: _cut(f / n),
            "swapped with another": lambda f, n=name, o=other: _swap(f / n, f / o),
            "a link to its own content": lambda f, n=name: _link(f, n, None),
            "a link to a file outside": lambda f, n=name: _link(f, n, "/etc/hostname"),
            "a link to nothing": lambda f, n=name: _link(f, n, "/nowhere/at/all"),
            "a folder": lambda f, n=name: _folder(f / n),
            "a pipe": lambda f, n=name: _pipe(f / n),
        }
        found += [
            (f"{name}: {way}", _then_sealed(target, alter) if sealed else alter)
            for way, alter in ways.items()
            # A pipe has no sum.
            if not (sealed and way in ("a folder", "a pipe", "a link to nothing", "removed"))
        ]
    for name in {name.partition("/")[0] for name in names if "/" in name}:
        found.append((f"{name}/: a link to a folder", lambda f, n=name: _link_folder(f, n)))
    return found


def _then_sealed(target: Target, alter: Alter) -> Alter:
    def both(folder: Path) -> None:
        alter(folder)
        seal(target, folder)

    return both


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _swap(one: Path, other: Path) -> None:
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)


def _link(folder: Path, name: str, to: str | None) -> None:
    if to is None:
        outside = folder.with_name(f"{folder.name}-outside")
        outside.mkdir(exist_ok=True)
        to = str(outside / Path(name).name)
        shutil.copyfile(folder / name, to)
    (folder / name).unlink()
    os.symlink(to, folder / name)


def _link_folder(folder: Path, name: str) -> None:
    outside = folder.with_name(f"{folder.name}-outside")
    outside.mkdir(exist_ok=True)
    shutil.rmtree(outside / name, ignore_errors=True)
    (folder / name).rename(outside / name)
    os.symlink(outside / name, folder / name)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


# by hand


def _json(name: str, edit: Callable[[Any], Any]) -> Alter:
    def alter(folder: Path) -> None:
        value = edit(json.loads((folder / name).read_text()))
        (folder / name).write_text(value if isinstance(value, str) else json.dumps(value))

    return alter


def _set(**given: Any) -> Callable[[Any], Any]:
    return lambda record: {**record, **given}


def _text(name: str, text: bytes) -> Alter:
    return lambda folder: (folder / name).write_bytes(text)


def _many_keys(name: str) -> Alter:
    def alter(folder: Path) -> None:
        (folder / name).write_text(json.dumps({str(n): n for n in range(10**6)}))

    return alter


def _ensemble(members: Any) -> Alter:
    return _json("model.json", _set(model="ensemble", settings={"members": members}))


def _model(recipe: str, name: str, settings: Any) -> Alter:
    return _json("model.json", _set(recipe=recipe, model=name, settings=settings))


def _files(pattern: str, make: Callable[[pa.Table], pa.Table], **options: Any) -> Alter:
    """Writes all tables that a pattern names anew."""

    def alter(folder: Path) -> None:
        for path in folder.glob(pattern):
            pq.write_table(make(pq.read_table(path)), path, **options)

    return alter


def _many_rows(table: pa.Table) -> pa.Table:
    one = table.slice(0, 1)
    piece = pa.table({name: pa.repeat(one[name][0], 1 << 20) for name in table.column_names})
    return pa.concat_tables([piece] * 100)


def _with_value(table: pa.Table, values: Any) -> pa.Table:
    rest = {name: table[name] for name in table.column_names if name != "value"}
    return pa.table({"value": values, **rest})


def _numbers(table: pa.Table) -> pa.Table:
    return _with_value(table, pa.array(np.arange(len(table)) + 7))


def _texts(table: pa.Table) -> pa.Table:
    return _with_value(table, pa.array([f"t{n}" for n in range(len(table))]))


def _same(table: pa.Table) -> pa.Table:
    return _with_value(table, pa.concat_arrays([table["value"].combine_chunks()[:1]] * len(table)))


def _nulls(table: pa.Table) -> pa.Table:
    return _with_value(table, pa.nulls(len(table), table["value"].type))


def _long_text(table: pa.Table) -> pa.Table:
    return _with_value(table, pa.array(["\0" * (1 << 20)] * len(table)))


def _huge_text(table: pa.Table) -> pa.Table:
    return _with_value(table, pa.array(["x" * (200 << 20), *map(str, range(len(table) - 1))]))


def _reversed(table: pa.Table) -> pa.Table:
    return table.take(pa.array(np.arange(len(table))[::-1].copy()))


def _emptied(table: pa.Table) -> pa.Table:
    return table.slice(0, 0)


def _odd_types(table: pa.Table) -> pa.Table:
    return pa.table({name: [[{"a": 1}]] * len(table) for name in table.column_names})


def _claims_rows(folder: Path) -> None:
    """A footer that says that there are far more rows than the pages hold."""
    for path in folder.glob("state/*/unique.*.parquet"):
        pq.write_table(_numbers(pq.read_table(path)).slice(0, 1), path, compression="none")
        path.write_bytes(path.read_bytes().replace(b"\x02\x16", b"\xfe\xff\xff\xff\x0f\x16"))


def _weights(value: float, rows: slice = slice(None)) -> Alter:
    """Every weight of type F32 set to a value, in the places of ``rows``."""

    def alter(folder: Path) -> None:
        path = folder / WEIGHTS
        whole = bytearray(path.read_bytes())
        start = 8 + int.from_bytes(whole[:8], "little")
        header = read_header(path)
        for name, entry in header.items():
            if name != "__metadata__" and entry["dtype"] in ("F32", "I64"):
                first, last = (start + at for at in entry["data_offsets"])
                kind = np.float32 if entry["dtype"] == "F32" else np.int64
                if kind == np.int64 and not np.isfinite(value):
                    continue
                values = np.frombuffer(bytes(whole[first:last]), kind).copy()
                values[rows] = value if kind == np.float32 else int(min(value, 2.0**62))
                whole[first:last] = values.tobytes()
        path.write_bytes(bytes(whole))
        seal_weights(path)

    return alter


def _without_checksum(folder: Path) -> None:
    def edit(header: Any) -> Any:
        del header["__metadata__"]["sha256"]
        return header

    edit_header(folder / WEIGHTS, edit)


def _far_shapes(folder: Path) -> None:
    """A header whose shapes are beyond memory, though nothing of them is in the file."""

    def edit(header: Any) -> Any:
        for name in header:
            if name != "__metadata__":
                header[name] = {"dtype": "F32", "shape": [0, 2**62, 2**62], "data_offsets": [0, 0]}
        return header

    edit_header(folder / WEIGHTS, edit)


PICKLE = base64.b64decode("gASVIAAAAAAAAACMBXBvc2l4lIwGc3lzdGVtlJOUjAVmYWxzZZSFlFKULg==")
"""What would run a command if anything unpickled it."""


def by_hand(target: Target) -> list[tuple[str, Alter]]:
    """What a person thinks of."""
    found: dict[str, Alter] = {}
    names = [name for name in json_files(target) if name != target.manifest]
    for name in [*names, target.manifest]:
        if not name:
            continue
        found |= {
            f"{name}: deep": _text(name, b"[" * 100_000 + b"]" * 100_000),
            f"{name}: deep objects": _text(name, b'{"a":' * 900 + b"1" + b"}" * 900),
            f"{name}: no UTF-8": _text(name, b'{"recipe": "\xff\xfe"}'),
            f"{name}: UTF-16": _text(name, '{"recipe": "ranking"}'.encode("utf-16")),
            f"{name}: 5,000 digits": _text(name, b'{"recipe": ' + b"9" * 5000 + b"}"),
            f"{name}: 4,000 digits": _text(name, b'{"recipe": ' + b"9" * 4000 + b"}"),
            f"{name}: infinity": _text(name, b'{"recipe": 1e999}'),
            f"{name}: NaN": _text(name, b'{"recipe": NaN}'),
            f"{name}: half a surrogate": _text(name, b'{"recipe": "\\ud800"}'),
            f"{name}: a list": _text(name, b"[]"),
            f"{name}: a number": _text(name, b"3"),
            f"{name}: a pickle": _text(name, PICKLE),
            f"{name}: a million keys": _many_keys(name),
        }
    if (target.folder / "model.json").exists():
        found |= _models(json.loads((target.folder / "model.json").read_text()))
        found |= {
            "weights: NaN": _weights(np.nan),
            "weights: one NaN": _weights(np.nan, slice(0, 1)),
            "weights: infinity": _weights(np.inf),
            "weights: 1e38": _weights(1e38),
            "weights: all -1": _weights(-1.0),
            "weights: no checksum": _without_checksum,
            "weights: shapes beyond memory": _far_shapes,
            "weights: a pickle": _text(WEIGHTS, PICKLE),
            "weights: long header": _text(WEIGHTS, (1 << 62).to_bytes(8, "little") + b"{}"),
        }
    if (target.folder / "state").exists():
        found |= _states()
    return [(label, _then_sealed(target, alter)) for label, alter in found.items()]


def _models(record: Any) -> dict[str, Alter]:
    recipe, name, settings = record["recipe"], record["model"], record["settings"]
    found: dict[str, Alter] = {
        "recipe: a path": _json("model.json", _set(recipe="../../x")),
        "model: a path": _json("model.json", _set(model="../../x")),
        "model: a module": _json("model.json", _set(model="os:system")),
        "model: an attribute": _json("model.json", _set(model="__class__")),
        "seed: -1": _json("model.json", lambda r: {**r, "train": {**r["train"], "seed": -1}}),
        "seed: 2^63": _json("model.json", lambda r: {**r, "train": {**r["train"], "seed": 2**63}}),
        "out of core": _json(
            "model.json", lambda r: {**r, "train": {**r["train"], "tables_out_of_core": True}}
        ),
    }
    for key in settings:
        for value in (BIG, [BIG] * 3, [1] * 10**6, 10**15):
            shown = f"a list of {len(value):,}" if isinstance(value, list) else f"{value:,}"
            wide = {**settings, key: value}
            found[f"settings.{key}: {shown}"] = _model(recipe, name, wide)
    if recipe == "ranking":
        one = {"model": "deepfm", "settings": {"embedding_dim": 4, "deep_mlp": [8]}}
        wide = {"model": "deepfm", "settings": {"embedding_dim": BIG}}
        layers = {"model": "deepfm", "settings": {"deep_mlp": [1] * 100_000}}
        found |= {
            "an ensemble of ensembles": _ensemble([{"model": "ensemble"}] * 2),
            "an ensemble of 10,000": _ensemble([one] * 10_000),
            "an ensemble of 64": _ensemble([one] * 64),
            "an ensemble of the default": _ensemble([{"model": "dlrm"}] * 60),
            "members of no type": _ensemble({"a": 1}),
            "a member beyond memory": _ensemble([wide, wide]),
            "a member of 100,000 layers": _ensemble([layers, layers]),
            "out of core beyond the disk": _json(
                "model.json",
                lambda r: {
                    **r,
                    "model": "deepfm",
                    "settings": {"embedding_dim": 10**7},
                    "train": {**r["train"], "tables_out_of_core": True},
                },
            ),
        }
    if recipe == "sessions":
        for other in ("xlnet", "bert4rec", "gpt2", "gru4rec", "vsknn", "item_knn"):
            found[f"another model: {other}"] = _model(recipe, other, {})
        found["gpt2 of 10^6 positions"] = _model(recipe, "gpt2", {"max_length": 10**6})
        found["xlnet of 10^6 layers"] = _model(recipe, "xlnet", {"layers": 10**6})
    return found


def _states() -> dict[str, Alter]:
    state = "state/state.json"

    def operators(edit: Callable[[Any], Any]) -> Alter:
        return _json(state, lambda r: {**r, "operators": [edit(o) for o in r["operators"]]})

    found: dict[str, Alter] = {
        "state: a path outside": operators(lambda o: {**o, "folder": "../../../outside"}),
        "state: an absolute path": operators(lambda o: {**o, "folder": "/etc"}),
        "state: operators reversed": _json(
            state, lambda r: {**r, "operators": r["operators"][::-1]}
        ),
        "state: no operators": _json(state, lambda r: {**r, "operators": []}),
        "state: a schema that is no text": _json(
            state, lambda r: {**r, "schemas": {"input": 3, "output": []}}
        ),
    }
    tables = {
        "reversed": _reversed,
        "emptied": _emptied,
        "numbers for texts": _numbers,
        "texts for numbers": _texts,
        "one value": _same,
        "nulls": _nulls,
        "of other types": _odd_types,
        "a text of 1 MB a row": _long_text,
        "a text of 200 MB": _huge_text,
        "10^8 rows": _many_rows,
    }
    for kind in ("unique", "values", "sums", "counts"):
        for label, make in tables.items():
            for how in ({}, {"use_dictionary": False}):
                if label == "10^8 rows" and how:
                    continue
                text = f"{kind}.*.parquet: {label}{', plain' if how else ''}"
                found[text] = _valued(kind, make, {"compression": "zstd", **how})
    found["unique.*.parquet: a footer that is not true"] = _claims_rows
    return found


def _valued(kind: str, make: Callable[[pa.Table], pa.Table], options: dict) -> Alter:
    def alter(folder: Path) -> None:
        paths = [
            p for p in sorted(folder.glob(f"state/*/{kind}.*.parquet")) if "totals" not in p.name
        ]
        for path in paths[:1]:
            pq.write_table(make(pq.read_table(path)), path, **options)

    return alter
