"""DLRM's interaction: dot products of all pairs of vectors."""

import numpy as np
import torch
from torch import nn

from core.compiled import compiled_sums
from training.threads import in_threads, shares_of

WIDTH_MULTIPLE = 8


class DotInteraction(nn.Module):
    """What goes into DLRM's top MLP: one vector, and the dot products of all pairs of vectors.

    The same products as Merlin's ``DLRMInteraction``, whose backward pass scatters them into
    zeros; here it gathers. Columns of zeros fill the output up to a multiple of 8 columns, as in
    NVIDIA's DLRM: the matrix products of the layer after it are then quicker, on GPU and CPU.

    Args:
        vectors: how many there are.
        dim: their width.
        itself: whether the products of each vector with itself follow those of the pairs.
    """

    def __init__(self, vectors: int, dim: int, itself: bool = False) -> None:
        super().__init__()
        self.itself = itself
        first, second = torch.triu_indices(vectors, vectors, offset=1)
        # Where the pairs stand in the flat matrix of products, and each product in the output.
        pairs = first * vectors + second
        places = torch.zeros(vectors, vectors, dtype=torch.long)
        places[first, second] = places[second, first] = dim + torch.arange(len(pairs))
        self.register_buffer("pairs", pairs, persistent=False)
        self.register_buffer("places", places.view(-1), persistent=False)
        products = len(pairs) + vectors * itself
        self.width = -(-(dim + products) // WIDTH_MULTIPLE) * WIDTH_MULTIPLE
        self.pairs_width = dim + len(pairs) if itself else self.width

    def forward(self, vectors: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
        """The last vector, then products 0·1, 0·2, … 1·2, … (then 0·0, 1·1, …), then zeros.

        Args:
            vectors: all but the last, ``(batch, vectors - 1, dim)``.
            last: ``(batch, dim)``.

        Returns:
            ``(batch, width)``.
        """
        found = self._pairs(vectors, last)
        if not self.itself:
            return found
        squares = vectors.square().sum(2), last.square().sum(1, keepdim=True)
        zeros = found.new_zeros(len(last), self.width - found.shape[1] - vectors.shape[1] - 1)
        return torch.cat([found, *(square.to(found.dtype) for square in squares), zeros], dim=1)

    def _pairs(self, vectors: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
        device = vectors.device.type
        if (
            device == "cpu"
            and vectors.dtype == torch.float32
            and not torch.is_autocast_enabled(device)
        ):
            return _InteractCompiled.apply(vectors, last, self.pairs_width)
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
            vectors, last = vectors.to(dtype), last.to(dtype)
        return _Interact.apply(vectors, last, self.pairs, self.places, self.pairs_width)


class _InteractCompiled(torch.autograd.Function):
    """The same on a CPU in fp32: one pass over the samples each way, nothing in between stored."""

    @staticmethod
    def forward(ctx, vectors, last, width):
        vectors, last = vectors.contiguous(), last.contiguous()
        ctx.save_for_backward(vectors, last)
        out = torch.empty(len(last), width)
        arrays = vectors.detach().numpy(), last.detach().numpy(), out.numpy()
        shares = shares_of(len(last))
        in_threads(_rows(vectors), lambda part: interact(*arrays, *shares[part]))
        return out

    @staticmethod
    def backward(ctx, gradient):
        vectors, last = ctx.saved_tensors
        others, own = torch.empty_like(vectors), torch.empty_like(last)
        tensors = vectors, last, gradient.contiguous(), others, own
        arrays = [tensor.detach().numpy() for tensor in tensors]
        shares = shares_of(len(last))
        in_threads(_rows(vectors), lambda part: interact_backward(*arrays, *shares[part]))
        return others, own, None


def _rows(vectors: torch.Tensor) -> int:
    return vectors.shape[0] * vectors.shape[1]


@compiled_sums
def interact(vectors, last, out, first_row, end_row):
    """Fills rows of ``out`` ``(batch, width)`` as :class:`DotInteraction` says."""
    count, dim = vectors.shape[1:]
    for b in range(first_row, end_row):
        for d in range(dim):
            out[b, d] = last[b, d]
        place = dim
        for i in range(count):
            for j in range(i + 1, count):
                total = np.float32(0)
                for d in range(dim):
                    total += vectors[b, i, d] * vectors[b, j, d]
                out[b, place] = total
                place += 1
            total = np.float32(0)
            for d in range(dim):
                total += vectors[b, i, d] * last[b, d]
            out[b, place] = total
            place += 1
        for rest in range(place, out.shape[1]):
            out[b, rest] = 0


@compiled_sums
def interact_backward(vectors, last, gradient, others, own, first_row, end_row):
    """Fills rows of the gradients of ``vectors`` and ``last``."""
    count, dim = vectors.shape[1:]
    for b in range(first_row, end_row):
        for d in range(dim):
            own[b, d] = gradient[b, d]
        for i in range(count):
            for d in range(dim):
                others[b, i, d] = 0
        place = dim
        for i in range(count):
            for j in range(i + 1, count):
                g = gradient[b, place]
                for d in range(dim):
                    others[b, i, d] += g * vectors[b, j, d]
                    others[b, j, d] += g * vectors[b, i, d]
                place += 1
            g = gradient[b, place]
            for d in range(dim):
                others[b, i, d] += g * last[b, d]
                own[b, d] += g * vectors[b, i, d]
            place += 1


class _Interact(torch.autograd.Function):
    @staticmethod
    def forward(ctx, vectors, last, pairs, places, width):
        stacked = torch.cat([vectors, last.unsqueeze(1)], dim=1)
        ctx.save_for_backward(stacked, places)
        products = torch.bmm(stacked, stacked.transpose(1, 2)).flatten(1).index_select(1, pairs)
        zeros = last.new_zeros(len(last), width - last.shape[1] - len(pairs))
        return torch.cat([last, products, zeros], dim=1)

    @staticmethod
    def backward(ctx, gradient):
        stacked, places = ctx.saved_tensors
        _, vectors, dim = stacked.shape
        products = gradient.index_select(1, places).view(-1, vectors, vectors)
        products.diagonal(dim1=1, dim2=2).zero_()
        # The product of a and b moves a along b and b along a: the gathered matrix is symmetric.
        others = torch.bmm(products[:, :-1], stacked)
        last = torch.bmm(products[:, -1:], stacked).squeeze(1) + gradient[:, :dim]
        return others, last, None, None, None
