"""Dropout whose random numbers are cheap on a CPU."""

import torch
from torch import nn

BITS = 16
"""Random bits an element: the share that is dropped is exact to 2^-17."""


class Dropout(nn.Dropout):
    """``nn.Dropout``; on a CPU four elements share one draw of 64 bits.

    torch draws one number an element there, in one thread, which is a fifth of a transformer's
    step. The draws come from torch's global generator, so that a run can be repeated and resumed.
    """

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Values of any shape → the same shape."""
        dropped = round(self.p * 2**BITS)
        # The last one is p so near to 1 that nothing would be left to scale up.
        if not self.training or values.device.type != "cpu" or dropped in (0, 2**BITS):
            return super().forward(values)
        words = torch.empty(-(-values.numel() * BITS // 64), dtype=torch.int64)
        words.random_(-(2**63), None)
        shorts = words.view(torch.int16)[: values.numel()].view(values.shape)
        kept = (shorts >= dropped - 2 ** (BITS - 1)).to(values.dtype)
        return values * kept.mul_(2**BITS / (2**BITS - dropped))


def use_cheap_dropout(model: nn.Module) -> None:
    """Makes every ``nn.Dropout`` inside ``model`` a :class:`Dropout`."""
    for module in model.modules():
        if type(module) is nn.Dropout and not module.inplace:
            module.__class__ = Dropout
