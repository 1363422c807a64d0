"""GPT-2: a transformer whose events attend to earlier ones only.

Radford et al., Language Models are Unsupervised Multitask Learners, 2019.
"""

import torch
from torch import nn

from core.merlin import Schema, transformers4rec
from training.sessions.next_item import NextItemModel
from training.sessions.transformer import shape, transformer_block
from training.sessions.transformer_settings import GPT2Settings


class GPT2(NextItemModel):
    """Transformers4Rec's GPT-2. All steps of a session learn in one pass.

    As sequences are padded on the right, no event ever attends to padding.
    """

    settings: GPT2Settings

    def __init__(self, schema: Schema, settings: GPT2Settings):
        super().__init__(schema, settings)
        # The network drops some of its input itself.
        self.events.dropout = nn.Identity()
        config = transformers4rec().GPT2Config.build(**shape(settings), use_cache=False)
        self.network = transformer_block(config)

    def encode(self, vectors: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        """See :meth:`NextItemModel.encode`."""
        return self.network(vectors).float()
