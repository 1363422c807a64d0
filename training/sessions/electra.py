"""ELECTRA: a transformer that learns, beside guessing events, to tell guesses from true ones.

Clark et al., ELECTRA: Pre-training Text Encoders as Discriminators Rather Than Generators, ICLR
2020.
"""

from typing import Any

from core.merlin import transformers4rec
from training.sessions.masked import MaskedModel
from training.sessions.transformer import shape
from training.sessions.transformer_settings import ElectraSettings


class Electra(MaskedModel):
    """Transformers4Rec's ELECTRA; one network guesses and judges."""

    @staticmethod
    def config(settings: ElectraSettings) -> Any:
        """See :meth:`MaskedModel.config`."""
        config = transformers4rec().ElectraConfig.build(**shape(settings))
        # Transformers4Rec leaves this one as it is for texts.
        config.attention_probs_dropout_prob = settings.dropout
        return config
