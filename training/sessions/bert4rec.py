"""BERT4Rec: a transformer with learned positions that attends both ways.

Sun et al., BERT4Rec: Sequential Recommendation with Bidirectional Encoder Representations from
Transformer, CIKM 2019.
"""

from typing import Any

from core.merlin import transformers4rec
from training.sessions.masked import MaskedModel
from training.sessions.transformer import shape
from training.sessions.transformer_settings import BERT4RecSettings


class BERT4Rec(MaskedModel):
    """Transformers4Rec's BERT."""

    @staticmethod
    def config(settings: BERT4RecSettings) -> Any:
        """See :meth:`MaskedModel.config`."""
        # Not among the names that Transformers4Rec offers, but in its registry.
        registry = transformers4rec().block.transformer.transformer_registry
        config = registry.parse("bert").build(**shape(settings))
        # Transformers4Rec hands BERT its dropout under a name that BERT does not read.
        config.hidden_dropout_prob = config.attention_probs_dropout_prob = settings.dropout
        config.intermediate_size = 4 * settings.d_model
        return config
