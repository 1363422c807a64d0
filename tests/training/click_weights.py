"""Weights and lookups of click models as NumPy arrays, for computing their forward passes anew."""

import torch

from tests.training import click_log


def columns(rows, dense=3, categorical=4, seed=4):
    """A batch's inputs by name, as NumPy arrays."""
    table = click_log.table(rows, seed=seed, dense=dense, categorical=categorical)
    return {n: table[n].to_numpy().copy() for n in table.column_names if n != "label"}


@torch.no_grad()
def randomised(model, scale=0.6):
    """The model with every weight normal with deviation ``scale``."""
    generator = torch.Generator().manual_seed(9)
    for weight in model.parameters():
        weight.copy_(torch.randn(weight.shape, generator=generator) * scale)
    return model


def values(tensor):
    """A tensor in float64."""
    return tensor.detach().double().numpy()


def lookups(group, inputs):
    """The rows of a ``TableGroup`` for a batch, by column, ``(batch, dim)``."""
    weight = values(group.table.weight)
    return {name: weight[group.rows(name).start + inputs[name]] for name in group.names}
