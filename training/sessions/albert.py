"""ALBERT: BERT whose layers share their weights.

Lan et al., ALBERT: A Lite BERT for Self-supervised Learning of Language Representations, ICLR 2020.
"""

from typing import Any

from core.merlin import transformers4rec
from training.sessions.masked import MaskedModel
from training.sessions.transformer import shape
from training.sessions.transformer_settings import AlbertSettings


class Albert(MaskedModel):
    """Transformers4Rec's ALBERT."""

    @staticmethod
    def config(settings: AlbertSettings) -> Any:
        """See :meth:`MaskedModel.config`."""
        return transformers4rec().AlbertConfig.build(**shape(settings))
