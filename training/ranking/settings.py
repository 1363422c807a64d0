"""Settings that the click models share; each model's own are beside it."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from core.settings import Settings
from training.model_settings import ModelSettings

Width = Annotated[int, Field(ge=1)]


def _width_or_rule(value: Any) -> Any:
    whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    if whole or value == "cardinality":
        return value
    raise ValueError("expected a whole number of 1 or more, or 'cardinality'")


Dim = Annotated[int | Literal["cardinality"], BeforeValidator(_width_or_rule)]


class TableSettings(Settings):
    """How embedding tables are kept small."""

    kind: Literal["full", "quotient_remainder", "hashed", "mixed"] = "full"
    """full: a row a code; quotient_remainder: two small tables a column, by the quotient and the
    remainder of the code (Shi et al., 2019); hashed: codes share rows by their remainder alone;
    mixed: larger tables have narrower rows and a projection (Ginart et al., 2019)."""

    operation: Literal["multiply", "add", "concatenate"] = "multiply"
    """quotient_remainder: how the two rows of a code become its vector."""

    collisions: int = Field(4, ge=2)
    """quotient_remainder and hashed: codes that share a row, so about the factor of the saving."""

    threshold: int = Field(200, ge=0)
    """Tables of at most this many rows stay full."""

    temperature: float = Field(0.3, gt=0, le=1)
    """mixed: a table's width falls with its rows to the power of minus this."""


class LowRankSettings(Settings):
    """MLP layers as products of two thin ones: weight ``(n, m)`` = ``B (n, r) · C (r, m)``.

    At most one of the three is given; none leaves every layer whole.
    """

    fraction: float | None = Field(None, gt=0, lt=1)
    """Most weights that a layer keeps, as a share p: the largest r < p·m·n / (m + n)."""

    ranks: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """The rank of each MLP layer, first to last; 0 leaves a layer whole."""

    parameters: int | None = Field(None, ge=1)
    """Most weights and biases of all MLP layers together; the fraction that meets it is found."""

    @model_validator(mode="after")
    def _one_way(self) -> "LowRankSettings":
        given = [name for name in ("fraction", "ranks", "parameters") if getattr(self, name)]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} exclude each other; give one")
        return self

    @property
    def asked_for(self) -> bool:
        """Whether any layer is to be replaced."""
        return bool(self.fraction or self.ranks or self.parameters)


class ClickSettings(ModelSettings):
    """What every click model has."""

    loss: Literal["bce", "focal", "weighted"] = "bce"
    """bce: cross-entropy; focal: that of sure rows counts less (Lin et al., 2017); weighted: that
    of clicks counts ``positive_weight`` times. The latter two bend the probabilities."""

    focal_gamma: float = Field(2.0, ge=0)
    """focal: the power of (1 - probability of the label) that a row is weighted by."""

    positive_weight: float = Field(1.0, gt=0)
    """weighted and focal: the weight of a click beside a row without one."""

    initialisation: Literal["dlrm", "normal"] = "normal"
    """dlrm: as in Facebook's code, tables uniform within ±1/√rows and layers normal with
    Xavier's variance; normal: tables with standard deviation 0.01, layers as torch starts them. The
    weights of single codes (logistic_regression, and the linear parts of fm, deepfm, afm and
    wide_and_deep) and the vectors of numbers start as in normal with both."""


class EmbeddingSettings(ClickSettings):
    """What every click model with embeddings has."""

    embedding_dim: Dim = 16
    """Width of every embedding; cardinality: 2·⁴√rows of each table, where the model allows it."""

    tables: TableSettings = TableSettings()
    """Compression of the embedding tables; the weights of single codes in linear parts stay."""


class DeepSettings(EmbeddingSettings):
    """What every click model with an MLP has."""

    dropout: float = Field(0.2, ge=0, lt=1)
    """Share of the MLP's activations dropped in training."""

    normalisation: Literal["none", "batch", "layer"] = "none"
    """After every activation of the MLP."""

    low_rank: LowRankSettings = LowRankSettings()
    """The MLP's layers as products of two thin ones, from the start of training."""
