"""MLP layers as products of two thin ones, before training or taken from a trained model.

A layer's weight ``(n, m)`` becomes ``B (n, r) · C (r, m)``: r·(m + n) weights in the place of m·n.
"""

import copy
from typing import Literal

import torch
from torch import nn

from core.errors import UserError
from core.merlin import torch_models
from training.ranking.settings import LowRankSettings

NMF_ITERATIONS = 300
SMALLEST = 1e-12

Layer = tuple[nn.Module, nn.Linear]
"""The wrapper that Merlin's block holds a layer in, as its ``to_wrap``, and the layer."""


class LowRankLinear(nn.Sequential):
    """A linear layer of rank ``r``: ``x → B (C x) + bias``.

    Args:
        left: ``B``, ``(out, r)``.
        right: ``C``, ``(r, in)``.
        bias: ``(out,)``, or None.
    """

    def __init__(self, left: torch.Tensor, right: torch.Tensor, bias: torch.Tensor | None) -> None:
        outputs, rank = left.shape
        super().__init__(
            nn.Linear(right.shape[1], rank, bias=False),
            nn.Linear(rank, outputs, bias=bias is not None),
        )
        with torch.no_grad():
            self[0].weight.copy_(right)
            self[1].weight.copy_(left)
            if bias is not None:
                self[1].bias.copy_(bias)


def mlp_layers(model: nn.Module) -> list[Layer]:
    """The linear layers of every ``MLPBlock`` of ``model``, first to last."""
    kind = torch_models().MLPBlock
    found: list[Layer] = []
    for block in model.modules():
        if isinstance(block, kind):
            for holder in block.values:
                layer = getattr(holder, "to_wrap", None)
                if isinstance(layer, nn.Linear):
                    found.append((holder, layer))
    return found


def rank_for(outputs: int, inputs: int, fraction: float) -> int:
    """The largest r < p·m·n / (m + n), so that fewer than p of the weights are left.

    Returns:
        0 where that leaves no rank: the layer stays whole.
    """
    bound = fraction * outputs * inputs / (outputs + inputs)
    return max(0, int(-(-bound // 1)) - 1)


def chosen_ranks(layers: list[nn.Linear], settings: LowRankSettings, setting: str) -> list[int]:
    """The rank of each layer; 0 for one that stays whole.

    Args:
        setting: the settings' name, for messages.

    Raises:
        UserError: more ranks than layers, a rank larger than its layer, or a size that cannot
            be met, naming setting and layer.
    """
    if settings.ranks:
        if len(settings.ranks) != len(layers):
            shapes = ", ".join(_shape(layer) for layer in layers)
            raise UserError(
                f"{setting}.ranks: {len(settings.ranks)} ranks for {len(layers)} MLP layers "
                f"({shapes}); give one for each"
            )
        for number, (rank, layer) in enumerate(zip(settings.ranks, layers, strict=True), 1):
            largest = min(layer.in_features, layer.out_features)
            if rank > largest:
                raise UserError(
                    f"{setting}.ranks: {rank} is larger than layer {number} allows: its weight is "
                    f"{_shape(layer)}, of rank {largest} at most"
                )
        return list(settings.ranks)
    if settings.parameters:
        return _ranks_for_size(layers, settings.parameters, setting)
    if not settings.fraction:
        raise UserError(f"{setting}: give one of fraction, ranks and parameters")
    fraction = settings.fraction
    return [rank_for(layer.out_features, layer.in_features, fraction) for layer in layers]


def factorise_before(model: nn.Module, settings: LowRankSettings, setting: str) -> None:
    """Puts a product of two thin layers in the place of MLP layers, before training.

    The product's entries have the variance that the layer's had; biases are kept.
    """
    for (holder, layer), rank in _replaced(model, settings, setting):
        deviation = layer.weight.detach().std()
        # An entry is a sum of r products, each of variance scale⁴ = deviation² / r.
        scale = (deviation / rank**0.5) ** 0.5
        left = torch.randn(layer.out_features, rank) * scale
        right = torch.randn(rank, layer.in_features) * scale
        holder.to_wrap = LowRankLinear(left, right, layer.bias)


def compress(
    model: nn.Module,
    settings: LowRankSettings,
    method: Literal["svd", "nmf"] = "svd",
    seed: int = 0,
) -> nn.Module:
    """A copy of a trained model whose MLP layers are the nearest of low rank.

    Its settings name the ranks, so that it is saved, loaded and trained on (fine-tuned) like any
    other model: ``fit(compress(model, LowRankSettings(fraction=0.3)), …)``.

    Args:
        method: svd: truncated singular value decomposition, the nearest in squared error (Eckart
            and Young, 1936); nmf: see :func:`signed_nmf`.
        seed: of nmf's start.

    Raises:
        UserError: the model has no MLP, or as :func:`chosen_ranks`.
    """
    if getattr(model.settings, "low_rank", None) is None:
        raise UserError(
            f"low rank: {type(model.settings).__name__} has no MLP layers to take factors of"
        )
    if model.settings.low_rank.asked_for:
        raise UserError("low rank: the model's layers are factors already; train a whole one first")
    compressed = copy.deepcopy(model)
    ranks = chosen_ranks([layer for _, layer in mlp_layers(compressed)], settings, "low_rank")
    exact = LowRankSettings(ranks=tuple(ranks))
    for (holder, layer), rank in _replaced(compressed, exact, "low_rank"):
        weight = layer.weight.detach()
        factors = truncated_svd(weight, rank) if method == "svd" else signed_nmf(weight, rank, seed)
        holder.to_wrap = LowRankLinear(*factors, layer.bias)
    compressed.settings = model.settings.model_copy(update={"low_rank": exact})
    return compressed


def truncated_svd(weight: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """``B (n, r)`` and ``C (r, m)``: the r largest singular values, √ of each on either side."""
    left, values, right = torch.linalg.svd(weight.double(), full_matrices=False)
    root = values[:rank].sqrt()
    return (left[:, :rank] * root).to(weight), (root[:, None] * right[:rank]).to(weight)


def signed_nmf(weight: torch.Tensor, rank: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Factors of non-negative parts: W = W⁺ - W⁻ ≈ [B⁺, -B⁻] · [C⁺; C⁻].

    A weight has both signs, which non-negative factors cannot give: the positive and the negated
    negative entries are factorised apart, the rank shared out by their norms, and joined again.
    """
    parts = [weight.double().clamp(min=0), (-weight.double()).clamp(min=0)]
    norms = [float(part.norm()) for part in parts]
    share = norms[0] / max(sum(norms), SMALLEST)
    first = min(rank, max(0, round(rank * share)))
    if rank > 1 and min(norms) > 0:
        first = min(rank - 1, max(1, first))
    lefts, rights = [], []
    for sign, part, own in ((1, parts[0], first), (-1, parts[1], rank - first)):
        if own:
            left, right = nmf(part, own, seed)
            lefts.append(sign * left)
            rights.append(right)
    return torch.cat(lefts, 1).to(weight), torch.cat(rights, 0).to(weight)


def nmf(matrix: torch.Tensor, rank: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Non-negative ``B (n, r)``, ``C (r, m)`` with B·C ≈ ``matrix`` in squared error.

    Lee and Seung's multiplicative updates (2001), under which the error never grows.
    """
    generator = torch.Generator().manual_seed(seed)
    scale = (matrix.mean() / rank).clamp(min=SMALLEST).sqrt()
    left = torch.rand(len(matrix), rank, generator=generator, dtype=matrix.dtype) * 2 * scale
    right = torch.rand(rank, matrix.shape[1], generator=generator, dtype=matrix.dtype) * 2 * scale
    for _ in range(NMF_ITERATIONS):
        right *= (left.T @ matrix) / (left.T @ left @ right).clamp(min=SMALLEST)
        left *= (matrix @ right.T) / (left @ (right @ right.T)).clamp(min=SMALLEST)
    return left, right


def _replaced(model: nn.Module, settings: LowRankSettings, setting: str) -> list[tuple[Layer, int]]:
    """The layers that become products, with their ranks."""
    layers = mlp_layers(model)
    ranks = chosen_ranks([layer for _, layer in layers], settings, setting)
    return [(layer, rank) for layer, rank in zip(layers, ranks, strict=True) if rank]


def _ranks_for_size(layers: list[nn.Linear], most: int, setting: str) -> list[int]:
    """Ranks of the largest common fraction with which the layers have at most ``most`` weights."""
    shapes = [(layer.out_features, layer.in_features) for layer in layers]
    biases = sum(n for n, _ in shapes)

    def ranks(fraction: float) -> list[int]:
        return [max(1, rank_for(n, m, fraction)) for n, m in shapes]

    def size(found: list[int]) -> int:
        return biases + sum(r * (n + m) for r, (n, m) in zip(found, shapes, strict=True))

    whole = biases + sum(n * m for n, m in shapes)
    if most >= whole:
        return [0] * len(layers)
    if size(ranks(0.0)) > most:
        raise UserError(
            f"{setting}.parameters: {most:,} cannot be met: with every MLP layer of rank 1 there "
            f"are {size(ranks(0.0)):,}; the whole layers have {whole:,}"
        )
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if size(ranks(middle)) <= most else (low, middle)
    return ranks(low)


def _shape(layer: nn.Linear) -> str:
    return f"{layer.out_features} × {layer.in_features}"
