"""XLNet: a transformer with relative positions, trained by masking, permutation or replacement.

Yang et al., XLNet, NeurIPS 2019.
"""

from typing import Any

from core.merlin import transformers4rec
from training.sessions.masked import MaskedModel
from training.sessions.transformer import shape
from training.sessions.transformer_settings import XLNetSettings


class XLNet(MaskedModel):
    """Transformers4Rec's XLNet."""

    @staticmethod
    def config(settings: XLNetSettings) -> Any:
        """See :meth:`MaskedModel.config`."""
        return transformers4rec().XLNetConfig.build(**shape(settings), use_mems_eval=False)
