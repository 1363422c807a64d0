"""Optimizers that move the rows of a batch only, and cost the same whatever the table's size.

Their state has the names, shapes and meaning of torch's own optimizers.
"""

from typing import Any

import numpy as np
import torch

from training.tables import kernels
from training.tables.storage import Allocate, in_memory

EPS = {"adagrad": 1e-10, "rowwise_adagrad": 1e-10, "adam": 1e-8}
BETAS = (0.9, 0.999)


class CompiledOptimizer(torch.optim.Optimizer):
    """SGD, Adagrad, row-wise Adagrad or Adam over sparse gradients of tables on CPU.

    Adam keeps and moves its moments for the rows of a batch only, as ``torch.optim.SparseAdam``.

    Args:
        weights: tables ``(rows, dim)``, float32; each step they have a gradient as
            :class:`~training.tables.lookup.CompiledEmbedding` makes it, or none.
        kind: ``sgd``, ``adagrad``, ``rowwise_adagrad`` or ``adam``.
        rate: the learning rate.
        allocate: makes the state's tensors.
    """

    def __init__(
        self,
        weights: list[torch.nn.Parameter],
        kind: str,
        rate: float,
        allocate: Allocate = in_memory,
    ) -> None:
        super().__init__(weights, {"lr": rate})
        self.kind = kind
        for number, weight in enumerate(weights):
            self.state[weight] = {
                name: torch.tensor(0.0) if name == "step" else allocate(f"{name}-{number}", shape)
                for name, shape in state_shapes(kind, weight.shape).items()
            }

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """One step, for the rows that the gradients hold."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._step(weight, self.state[weight], group["lr"])

    def _step(self, weight: torch.Tensor, state: dict[str, torch.Tensor], rate: float) -> None:
        # Accumulating into weight.grad, torch forgets that every row stands once.
        rows = weight.grad._indices()[0].numpy()
        gradients = weight.grad._values().numpy()
        moments = [tensor.numpy() for name, tensor in state.items() if name != "step"]
        eps = EPS.get(self.kind)
        extra: tuple[float, ...] = (rate,) if eps is None else (rate, eps)
        if "step" in state:
            state["step"] += 1
        if self.kind == "adam":
            steps = int(state["step"])
            correction = (1 - BETAS[1] ** steps) ** 0.5 / (1 - BETAS[0] ** steps)
            extra = (rate * correction, *BETAS, eps)
        kernels.over_rows(
            getattr(kernels, f"step_{self.kind}"),
            weight.numpy(),
            *moments,
            rows,
            gradients,
            rows=rows,
            extra=tuple(np.float32(value) for value in extra),
        )


class RowWiseAdagrad(torch.optim.Optimizer):
    """Adagrad with one sum a row, in plain torch: what the compiled and fused ones are held to."""

    def __init__(self, weights: list[torch.nn.Parameter], rate: float) -> None:
        super().__init__(weights, {"lr": rate})
        for weight in weights:
            self.state[weight] = {"step": torch.tensor(0.0), "sum": weight.new_zeros(len(weight))}

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """One step, for the rows that the gradients hold."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                sparse = weight.grad if weight.grad.is_sparse else weight.grad.to_sparse(1)
                gradient = sparse.coalesce()
                rows, values = gradient.indices()[0], gradient.values()
                state["step"] += 1
                state["sum"].index_add_(0, rows, values.square().mean(1))
                scale = group["lr"] / (state["sum"][rows].sqrt() + EPS["rowwise_adagrad"])
                weight.index_add_(0, rows, values * scale[:, None], alpha=-1)


def state_shapes(kind: str, shape: torch.Size) -> dict[str, tuple[int, ...]]:
    """The tensors that an optimizer keeps for a table, by their names in torch's optimizers."""
    rows, dim = shape
    return {
        "sgd": {},
        "adagrad": {"step": (), "sum": (rows, dim)},
        "rowwise_adagrad": {"step": (), "sum": (rows,)},
        "adam": {"step": (), "exp_avg": (rows, dim), "exp_avg_sq": (rows, dim)},
    }[kind]
