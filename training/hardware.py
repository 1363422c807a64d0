"""What the machine offers: its device, its native precision, and compiled layers."""

import contextlib
import ctypes

import torch
from torch import nn

from core import console
from core.errors import UserError
from training.batches import Batch
from training.engine_settings import EngineSettings
from training.optimizers import table_parameters

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Their numbers in glibc's malloc.h."""


def resolve(settings: EngineSettings) -> EngineSettings:
    """``settings`` with ``device`` and ``precision`` as what ``auto`` means on this machine.

    Raises:
        UserError: ``device`` is cuda and torch sees none.
    """
    device = resolve_device(settings.device)
    precision = settings.precision
    if precision == "auto":
        precision = "bf16" if device == "cuda" and multiplies_bf16(device) else "fp32"
    elif precision == "bf16" and not multiplies_bf16(device):
        console.say("precision bf16: this machine has to emulate it, which is slower than fp32")
    return settings.model_copy(update={"device": device, "precision": precision})


def resolve_device(device: str) -> str:
    """``device`` as what ``auto`` means on this machine: cpu or cuda.

    Raises:
        UserError: it is cuda and torch sees none.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "train.device: cuda was asked for and torch sees no CUDA device; set it to cpu or "
            "auto, or install the GPU build of torch and the driver"
        )
    return device


def keep_freed_memory() -> None:
    """Tells glibc to use freed memory again rather than give it back to the system.

    The tensors of a step are megabytes each; otherwise every page of them is asked for, and filled
    with zeros, at every step.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # Other C libraries have no such thing.
        mallopt(M_MMAP_THRESHOLD, 2**30)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def multiplies_bf16(device: str) -> bool:
    """Whether matrix products of bfloat16 are done by the hardware itself."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager:
    """Matrix products in bfloat16 for ``bf16``; nothing for ``fp32``."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch on ``device``; the tensors themselves where they are there already."""
    inputs, targets = batch
    if isinstance(targets, dict):
        targets = {name: tensor.to(device) for name, tensor in targets.items()}
    elif targets is not None:
        targets = targets.to(device)
    return {name: tensor.to(device) for name, tensor in inputs.items()}, targets


def compile_dense_layers(model: nn.Module, device: torch.device, ragged: bool) -> None:
    """Compiles the largest parts of ``model`` that hold weights and no embedding table.

    Their names in the state dict stay as they are.

    Args:
        ragged: the batches' shapes vary. Otherwise each shape is compiled for itself: what a
            step computes then does not depend on which shapes came before it, and a resumed run
            computes what an undisturbed one does.

    Raises:
        UserError: there is no C++ compiler, which torch needs to compile for the CPU.
    """
    if device.type == "cpu":
        _require_compiler()
    tables = set(table_parameters(model))
    for part in _dense_parts(model, tables):
        part.compile(dynamic=ragged)


def _dense_parts(module: nn.Module, tables: set[nn.Parameter]) -> list[nn.Module]:
    weights = set(module.parameters())
    if not weights:
        return []
    plain_container = isinstance(module, nn.ModuleList | nn.ModuleDict)
    if weights.isdisjoint(tables) and not plain_container:
        return [module]
    return [part for child in module.children() for part in _dense_parts(child, tables)]


def _require_compiler() -> None:
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except Exception as error:
        raise UserError(
            "train.compile: torch finds no C++ compiler on this machine; install g++, or set "
            "train.compile to false"
        ) from error
