"""Checkpoints: model, optimizers, random state and progress in one safetensors file.

The tensors are the file's tensors; everything else is JSON in its header. A file is written whole
or not at all, and one that was cut off or altered is not used. Tensors go from and to the disk in
pieces, so that a table may be larger than memory.
"""

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import nn

from core import console
from core.artifacts import remove_partials
from core.errors import UserError
from core.marker import list_files
from core.names import name_of
from core.strict import ClosedRecord, Record, checked, parse
from core.tensors import CHUNK_BYTES, Pieces, TensorFile, write_tensors
from training.columns import column_rows, input_columns

Tensors = Mapping[str, torch.Tensor]


@dataclass
class Checkpoint:
    """Named tensors, in memory or in a file that is read as they are asked for; a JSON state."""

    tensors: Mapping[str, torch.Tensor | Pieces]
    state: dict[str, Any]


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Writes ``checkpoint`` atomically, with its checksum."""
    state = json.dumps(checkpoint.state, allow_nan=False)
    write_tensors(path, checkpoint.tensors, {"state": state})


def load(path: Path) -> Checkpoint:
    """Opens a checkpoint, of which every byte is checked first.

    Raises:
        UserError: it is absent, cut off, or its content does not match its checksum.
    """
    file = TensorFile(path)
    file.check(required=True)
    state = parse(file.metadata.get("state", "null"), f"{path}: state")
    if not isinstance(state, dict):
        raise UserError(f"{path}: state: expected a JSON object")
    return Checkpoint(file, state)


class Resumable(Record):
    """What the state of a checkpoint holds that can be gone on from, as far as it is chosen by."""

    fingerprint: dict[str, Any]
    finished: bool = False
    best_step: int | None = None


class CheckpointFolder:
    """The checkpoints of one run: ``step-….safetensors`` to resume, ``best-….safetensors``.

    Args:
        folder: made when the first file is written.
        keep: resumable checkpoints that stay; a best one stays while one of those refers to it.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder
        self.keep = keep

    def step_file(self, step: int) -> Path:
        return self.folder / f"step-{step:09d}.safetensors"

    def best_file(self, step: int) -> Path:
        return self.folder / f"best-{step:09d}.safetensors"

    def save(self, file: Path, checkpoint: Checkpoint) -> None:
        """Writes a checkpoint, which the marker of the run's folder lists first."""
        list_files(self.folder.parent, f"{self.folder.name}/{file.name}")
        save(file, checkpoint)

    def save_step(self, step: int, checkpoint: Checkpoint) -> None:
        """Writes a resumable checkpoint and deletes what no longer serves."""
        self.save(self.step_file(step), checkpoint)
        files = sorted(self.folder.glob("step-*.safetensors"))
        for file in files[: -self.keep]:
            file.unlink()
        referred = {self.best_file(step) for step in map(_best_step, files[-self.keep :]) if step}
        for file in self.folder.glob("best-*.safetensors"):
            if file not in referred:
                file.unlink()

    def newest(self, fingerprint: Mapping[str, Any]) -> Checkpoint | None:
        """The last whole checkpoint, if it was made by the same settings, model and data.

        Raises:
            UserError: it is of an unfinished run on features of another schema, naming the column.
        """
        remove_partials(self.folder)
        for file in sorted(self.folder.glob("step-*.safetensors"), reverse=True):
            try:
                checkpoint = load(file)
                found = checked(Resumable, checkpoint.state, f"{file}: state")
            except UserError as error:
                console.say(f"{error}; trying the checkpoint before it")
                continue
            made_of = found.fingerprint
            fault = _other_columns(made_of, fingerprint)
            if fault and not found.finished:
                raise UserError(
                    f"{file}: of an unfinished training on features of another schema: {fault}. "
                    f"Train into another folder, or delete {self.folder} to train afresh"
                )
            changed = differences(made_of, fingerprint)
            if changed:
                if made_of.get("identity") != fingerprint.get("identity"):
                    changed = "the features"
                elif _class_of(made_of) != _class_of(fingerprint):
                    changed = f"the model: {_class_of(made_of)}, now {_class_of(fingerprint)}"
                console.say(f"training from the start; changed since the last training: {changed}")
                return None
            return checkpoint
        return None

    def clear(self) -> None:
        """Deletes every checkpoint of the folder."""
        for pattern in ("step-*.safetensors", "best-*.safetensors"):
            for file in self.folder.glob(pattern):
                file.unlink()


def _best_step(file: Path) -> int | None:
    """The best step that a resumable checkpoint refers to; its tensors are not read."""
    try:
        state = parse(TensorFile(file).metadata.get("state", "{}"), file)
        return checked(Resumable, state, file).best_step
    except UserError:
        return None


def _other_columns(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """How the columns of two fingerprints differ; empty if nothing is known of them."""
    try:
        written = checked(WeightColumns, old.get("columns"), "columns")
    except UserError:
        return ""
    return other_columns(written.model_dump(), new.get("columns"))


def _class_of(fingerprint: Mapping[str, Any]) -> Any:
    """The class of the model that a fingerprint is of, where it names one."""
    model = fingerprint.get("model")
    return model.get("class") if isinstance(model, Mapping) else None


def differences(old: Mapping[str, Any], new: Mapping[str, Any], path: str = "") -> str:
    """The first few leaves in which two nested mappings differ, as ``name: old, now new``."""
    found = []
    for key in dict.fromkeys([*old, *new]):
        a, b = old.get(key), new.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            deeper = differences(a, b, f"{path}{key}.")
            found += [deeper] if deeper else []
        elif a != b:
            long = len(f"{a}{b}") > 60
            found.append(f"{path}{key} differs" if long else f"{path}{key}: {a}, now {b}")
    return "; ".join(found[:3])


def optimizer_tensors(
    optimizers: list[torch.optim.Optimizer],
) -> tuple[dict[str, torch.Tensor], list[Any]]:
    """Optimizers' states as named tensors and, for what is not a tensor, JSON-able lists."""
    tensors: dict[str, torch.Tensor] = {}
    rest = []
    for number, optimizer in enumerate(optimizers):
        state = optimizer.state_dict()
        plain: dict[str, dict[str, Any]] = {}
        for index, values in state["state"].items():
            for name, value in values.items():
                if isinstance(value, torch.Tensor | Pieces):
                    tensors[f"optimizer.{number}.{index}.{name}"] = value
                else:
                    plain.setdefault(str(index), {})[name] = value
        rest.append({"plain": plain, "groups": state["param_groups"]})
    return tensors, rest


def restore_optimizers(
    optimizers: list[torch.optim.Optimizer], tensors: Tensors, rest: list[Any]
) -> None:
    """The inverse of :func:`optimizer_tensors`.

    State that an optimizer has set up already is filled where it lies, which may be a mapped file.
    """
    for number, optimizer in enumerate(optimizers):
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        for index, values in rest[number]["plain"].items():
            optimizer.state[weights[int(index)]].update(values)
        prefix = f"optimizer.{number}."
        for full_name in tensors:
            if full_name.startswith(prefix):
                index, name = full_name.removeprefix(prefix).split(".", 1)
                weight = weights[int(index)]
                state = optimizer.state[weight]
                if _fits(state.get(name), tensors, full_name):
                    fill(state[name], tensors, full_name)
                else:
                    # As Optimizer.load_state_dict places it: step counts stay on the CPU.
                    place = "cpu" if name == "step" else weight.device
                    state[name] = tensors[full_name].to(place)
        for group, saved in zip(optimizer.param_groups, rest[number]["groups"], strict=True):
            group.update({key: value for key, value in saved.items() if key != "params"})
        # Its own state given back to it: what an optimizer keeps beside it is then brought in line.
        optimizer.load_state_dict(optimizer.state_dict())


def fill(tensor: torch.Tensor, tensors: Tensors, name: str) -> None:
    """Copies ``tensors[name]`` into ``tensor``; from a file, piece by piece."""
    if isinstance(tensors, TensorFile):
        tensors.copy_to(name, tensor)
    else:
        with torch.no_grad():
            tensor.copy_(tensors[name])


def _fits(tensor: Any, tensors: Tensors, name: str) -> bool:
    if not isinstance(tensor, torch.Tensor):
        return False
    if isinstance(tensors, TensorFile):
        dtype, shape = tensors.dtype(name), tensors.shape(name)
    else:
        dtype, shape = tensors[name].dtype, tensors[name].shape
    return tensor.dtype == dtype and tuple(tensor.shape) == tuple(shape)


def random_tensors() -> tuple[Tensors, dict[str, Any]]:
    """The state of torch's, NumPy's and Python's generators."""
    tensors = {"random.torch": torch.get_rng_state()}
    for device in range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0):
        tensors[f"random.cuda.{device}"] = torch.cuda.get_rng_state(device)
    kind, keys, *numpy_rest = np.random.get_state()
    tensors["random.numpy"] = torch.from_numpy(keys.astype(np.int64))
    version, words, gauss = random.getstate()
    rest = {"numpy": [kind, *numpy_rest], "python": [version, list(words), gauss]}
    return tensors, rest


def restore_random(tensors: Tensors, rest: Mapping[str, Any]) -> None:
    """The inverse of :func:`random_tensors`."""
    torch.set_rng_state(tensors["random.torch"])
    for name, state in tensors.items():
        if name.startswith("random.cuda."):
            torch.cuda.set_rng_state(state, int(name.rsplit(".", 1)[1]))
    kind, *numpy_rest = rest["numpy"]
    keys = tensors["random.numpy"].numpy().astype(np.uint32)
    np.random.set_state((kind, keys, *numpy_rest))
    version, words, gauss = rest["python"]
    random.setstate((version, tuple(words), gauss))


def model_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """The model's weights and buffers under ``model.``."""
    return {f"model.{name}": tensor for name, tensor in model.state_dict().items()}


def restore_model(model: nn.Module, tensors: Tensors) -> None:
    """The inverse of :func:`model_tensors`; other tensors are passed over."""
    if isinstance(tensors, TensorFile):
        tensors.rename(_plain_names(model, tensors, "model."))
    _fill_model(model, tensors, "model.")


def save_weights(path: Path, model: nn.Module) -> None:
    """Writes a model's weights alone, as plain safetensors under their own names.

    The header also says which columns they are for, see :func:`load_weights`.
    """
    columns = {"read": input_columns(model), "rows": column_rows(model)}
    write_tensors(path, model.state_dict(), {"columns": json.dumps(columns)})


class WeightColumns(ClosedRecord):
    """What the header of weights says of the columns that they are for."""

    read: list[str] | None = None
    rows: dict[str, int] = Field(default_factory=dict)


def load_weights(path: Path, model: nn.Module, verified: bool = False) -> None:
    """Reads weights that :func:`save_weights` wrote.

    Args:
        verified: whether the bytes were checked against a manifest just now.

    Raises:
        UserError: the file is damaged or has no checksum; its weights are for other columns, other
            sizes of their tables, or another model, naming the first of them; one is not finite.
    """
    file = TensorFile(path)
    if not (verified and file.has_checksum):
        file.check(required=True)
    columns = parse(file.metadata.get("columns", "{}"), f"{path}: columns")
    written = checked(WeightColumns, columns, f"{path}: columns")
    fault = ""
    if written.model_fields_set:
        expected = {"read": input_columns(model), "rows": column_rows(model)}
        fault = other_columns(written.model_dump(), expected)
    if not fault:
        file.rename(_plain_names(model, file))
        shapes = {name: file.shape(name) for name in file}
        if hasattr(model, "make_room"):  # some of its buffers are as long as training made them
            model.make_room(shapes)
        own = model.state_dict()
        fault = differences(shapes, {name: tuple(tensor.shape) for name, tensor in own.items()})
    if not fault:
        kinds = {name: str(file.dtype(name)) for name in file}
        fault = differences(kinds, {name: str(tensor.dtype) for name, tensor in own.items()})
    if not fault:
        _fill_model(model, file, "")
        fault = _value_fault(model)
    if fault:
        raise UserError(f"{path}: not the weights of this model and schema: {fault}")


def _plain_names(model: nn.Module, file: TensorFile, prefix: str = "") -> dict[str, str]:
    """Names of tensors in ``file`` that an older version made of columns' names as they are, with
    those that the model has now (:func:`core.names.key_of`)."""
    renamed = {}
    for name in (f"{prefix}{name}" for name in model.state_dict()):
        plain = ".".join(name_of(part) for part in name.split("."))
        if plain != name and name not in file and plain in file:
            renamed[plain] = name
    return renamed


@torch.no_grad()
def _value_fault(model: nn.Module) -> str:
    """What is wrong with the values of a model's weights; empty if nothing is."""
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            rows = max(1, len(tensor) * CHUNK_BYTES // max(1, tensor.nbytes)) if tensor.dim() else 1
            pieces = tensor.split(rows) if tensor.dim() else [tensor]
            if not all(bool(piece.isfinite().all()) for piece in pieces):
                return f"{name} holds values that are no finite numbers"
    for module in model.modules():
        fault = module.state_fault() if hasattr(module, "state_fault") else ""
        if fault:
            return fault
    return ""


def other_columns(old: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> str:
    """How the columns that weights are for differ from those that are there; empty if nothing.

    Both are ``{"read": names or None, "rows": {column: rows of its table}}``, or nothing is known.
    """
    if not old or not new:
        return ""
    read, now = (set(columns["read"] or ()) for columns in (old, new))
    found = [f"column {name} is not in the features" for name in sorted(read - now)]
    found += [f"column {name} was not there in training" for name in sorted(now - read)]
    if not found and old["read"] != new["read"]:
        found = [f"the columns' order differs: {', '.join(old['read'] or ())}"]
    found += [
        f"the table of column {name} has {rows:,} rows, the schema asks for {new['rows'][name]:,}"
        for name, rows in old["rows"].items()
        if new["rows"].get(name, rows) != rows
    ]
    return "; ".join(found[:3])


@torch.no_grad()
def _fill_model(model: nn.Module, tensors: Tensors, prefix: str) -> None:
    filled = set()
    for name, tensor in model.state_dict().items():
        if isinstance(tensor, Pieces):
            continue  # Sharded over processes: filled by training.distributed.
        place = tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tensor.shape
        if place not in filled or not tensor.numel():
            fill(tensor, tensors, prefix + name)
            filled.add(place)
