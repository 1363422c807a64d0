"""Checkpoints: model, optimizers, random state and progress in one safetensors file.

The tensors are the file's tensors; everything else is JSON in its header, beside a SHA-256 of
both. A file is written whole or not at all, and one that was cut off or altered is not used.
"""

import hashlib
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from core import console
from core.artifacts import PARTIAL, read_tensors, write_tensors
from core.errors import UserError

Tensors = dict[str, torch.Tensor]


@dataclass
class Checkpoint:
    """What one file holds: named tensors, and a JSON-able state."""

    tensors: Tensors
    state: dict[str, Any]


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Writes ``checkpoint`` atomically, with its checksum."""
    tensors = {name: t.detach().cpu().contiguous() for name, t in checkpoint.tensors.items()}
    state = json.dumps(checkpoint.state, sort_keys=True, allow_nan=False)
    write_tensors(path, tensors, {"state": state, "sha256": _checksum(tensors, state)})


def load(path: Path) -> Checkpoint:
    """Reads a checkpoint.

    Raises:
        UserError: it is absent, cut off, or its content does not match its checksum.
    """
    tensors, metadata = read_tensors(path)
    state = metadata.get("state", "")
    if metadata.get("sha256") != _checksum(tensors, state):
        raise UserError(f"{path}: altered since it was written (its checksum does not match)")
    return Checkpoint(tensors, json.loads(state))


def _checksum(tensors: Mapping[str, torch.Tensor], state: str) -> str:
    digest = hashlib.sha256(state.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        # Viewed as bytes, since NumPy has no bfloat16.
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


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

    def save_step(self, step: int, checkpoint: Checkpoint) -> None:
        """Writes a resumable checkpoint and deletes what no longer serves."""
        save(self.step_file(step), checkpoint)
        files = sorted(self.folder.glob("step-*.safetensors"))
        for file in files[: -self.keep]:
            file.unlink()
        referred = {self.best_file(step) for step in map(_best_step, files[-self.keep :]) if step}
        for file in self.folder.glob("best-*.safetensors"):
            if file not in referred:
                file.unlink()

    def newest(self, fingerprint: Mapping[str, Any]) -> Checkpoint | None:
        """The last whole checkpoint, if it was made by the same settings, model and data."""
        for file in self.folder.glob(f".*{PARTIAL}"):
            file.unlink()  # What a killed run was writing.
        for file in sorted(self.folder.glob("step-*.safetensors"), reverse=True):
            try:
                checkpoint = load(file)
            except UserError as error:
                console.say(f"{error}; trying the checkpoint before it")
                continue
            changed = differences(checkpoint.state["fingerprint"], fingerprint)
            if changed:
                console.say(f"{self.folder}: from another run ({changed}); training afresh")
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
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as tensors:
            return json.loads((tensors.metadata() or {}).get("state", "{}")).get("best_step")
    except SafetensorError:
        return None


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


def optimizer_tensors(optimizers: list[torch.optim.Optimizer]) -> tuple[Tensors, list[Any]]:
    """Optimizers' states as named tensors and, for what is not a tensor, JSON-able lists."""
    tensors: Tensors = {}
    rest = []
    for number, optimizer in enumerate(optimizers):
        state = optimizer.state_dict()
        plain: dict[str, dict[str, Any]] = {}
        for index, values in state["state"].items():
            for name, value in values.items():
                if isinstance(value, torch.Tensor):
                    tensors[f"optimizer.{number}.{index}.{name}"] = value
                else:
                    plain.setdefault(str(index), {})[name] = value
        rest.append({"plain": plain, "groups": state["param_groups"]})
    return tensors, rest


def restore_optimizers(
    optimizers: list[torch.optim.Optimizer], tensors: Tensors, rest: list[Any]
) -> None:
    """The inverse of :func:`optimizer_tensors`."""
    for number, optimizer in enumerate(optimizers):
        state: dict[int, dict[str, Any]] = {}
        for index, values in rest[number]["plain"].items():
            state.setdefault(int(index), {}).update(values)
        prefix = f"optimizer.{number}."
        for full_name, tensor in tensors.items():
            if full_name.startswith(prefix):
                index, name = full_name.removeprefix(prefix).split(".", 1)
                state.setdefault(int(index), {})[name] = tensor
        optimizer.load_state_dict({"state": state, "param_groups": rest[number]["groups"]})


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


def model_tensors(model: nn.Module) -> Tensors:
    """The model's weights and buffers under ``model.``."""
    return {f"model.{name}": tensor for name, tensor in model.state_dict().items()}


def restore_model(model: nn.Module, tensors: Tensors) -> None:
    """The inverse of :func:`model_tensors`; other tensors are passed over."""
    own = {k.removeprefix("model."): t for k, t in tensors.items() if k.startswith("model.")}
    model.load_state_dict(own)


def save_weights(path: Path, model: nn.Module) -> None:
    """Writes a model's weights alone, as plain safetensors under their own names."""
    write_tensors(path, model.state_dict())


def load_weights(path: Path, model: nn.Module) -> None:
    """Reads weights that :func:`save_weights` wrote.

    Raises:
        UserError: names or shapes are not this model's, with the first of them.
    """
    tensors, _ = read_tensors(path)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    changed = differences(shapes, expected)
    if changed:
        raise UserError(f"{path}: not the weights of this model and schema: {changed}")
    model.load_state_dict(tensors)
