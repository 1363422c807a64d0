"""The optimizers of all processes' shards as one, whose state is that of whole tables."""

from typing import Any

import torch

from core.tensors import TensorFile
from training.distributed import ranks
from training.distributed.sharded import ShardedTable
from training.distributed.transfer import Whole
from training.tables.optimizers import state_shapes


class ShardedOptimizer(torch.optim.Optimizer):
    """Steps this process's shards; its state dict is that of an optimizer of the whole tables.

    Args:
        tables: of one learning rate, in the model's order.
        own: the optimizer of this process's stores; None where it holds no shard.
        kind: of optimizer, see :mod:`training.tables.optimizers`.
        rate: the learning rate.
    """

    def __init__(
        self,
        tables: list[ShardedTable],
        own: torch.optim.Optimizer | None,
        kind: str,
        rate: float,
    ) -> None:
        # A process may hold nothing, and an optimizer of nothing is refused.
        super().__init__([torch.zeros(0)], {"lr": rate})
        self.tables, self.kind = tables, kind
        self.own = [] if own is None else [own]
        for optimizer in self.own:
            for group in optimizer.param_groups:
                for weight in group["params"]:
                    self._start(optimizer, weight)

    def _start(self, optimizer: torch.optim.Optimizer, weight: torch.nn.Parameter) -> None:
        """Sets up the state that torch's optimizers make at their first step."""
        for name, shape in state_shapes(self.kind, weight.shape).items():
            if name not in optimizer.state[weight]:
                place = "cpu" if name == "step" else weight.device
                optimizer.state[weight][name] = torch.zeros(shape, device=place)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Hands on the learning rate, which fused tables need before the backward pass."""
        for optimizer in self.own:
            for group in optimizer.param_groups:
                group["lr"] = self.param_groups[0]["lr"]
            optimizer.zero_grad(set_to_none=set_to_none)

    def step(self, closure: Any = None) -> None:
        """One step of every shard."""
        for optimizer in self.own:
            optimizer.step()

    def wholes(self) -> dict[tuple[int, str], Whole]:
        """The state's tensors by the table's place and name, over all processes."""
        return {
            (number, name): table.whole(name, shape, self._state_of(table, name))
            for number, table in enumerate(self.tables)
            for name, shape in state_shapes(self.kind, torch.Size(table.shape)).items()
            if name != "step"
        }

    def state_dict(self) -> dict[str, Any]:
        """As ``torch.optim.Optimizer``'s, with pieces for tensors that lie in shards."""
        state: dict[int, dict[str, Any]] = {}
        for (number, name), whole in self.wholes().items():
            steps = state.setdefault(number, {"step": self._steps()})
            steps[name] = whole.pieces()
        group = {**self.param_groups[0], "params": list(range(len(self.tables)))}
        return {"state": state, "param_groups": [group]}

    def restore(self, file: TensorFile | None, prefix: str, group: dict[str, Any]) -> None:
        """Takes over the state of whole tables.

        Args:
            file: of the checkpoint, in the first process.
            prefix: of the state's names in it.
            group: the learning rates, as ``state_dict`` gives them.
        """
        self.param_groups[0].update({k: v for k, v in group.items() if k != "params"})
        for (number, name), whole in self.wholes().items():
            whole.fill(file, f"{prefix}{number}.{name}")
            steps = None if file is None else float(file[f"{prefix}{number}.step"])
            steps = ranks.shared(steps)
            for state in self._states():
                state["step"].fill_(steps)

    def _steps(self) -> torch.Tensor:
        own = max((float(state["step"]) for state in self._states()), default=0.0)
        return torch.tensor(max(ranks.gathered(own)))

    def _states(self) -> list[dict[str, Any]]:
        return [state for optimizer in self.own for state in optimizer.state.values()]

    def _state_of(self, table: ShardedTable, name: str) -> dict:
        weights = {shard.weight for shard in table.shards}
        return {
            weight: state[name]
            for optimizer in self.own
            for weight, state in optimizer.state.items()
            if weight in weights
        }
