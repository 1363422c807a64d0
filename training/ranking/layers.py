"""What click models are put together from, beside Merlin's own blocks."""

import torch
from torch import nn

from core.errors import UserError
from core.merlin import Schema, Tags, torch_models
from training.batches import Inputs
from training.compressed_tables import cardinality_dim, make_tables, rows_of
from training.dropout import Dropout
from training.embeddings import NORMAL_SCALE, TableGroup, stack_vectors
from training.ranking.settings import DeepSettings, EmbeddingSettings


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation that takes a batch of one row, as an epoch may end with, as it is."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """``(batch, width)`` → the same shape."""
        if self.training and len(values) < 2:
            return nn.functional.batch_norm(
                values, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(values)


def mlp(widths: list[int] | tuple[int, ...], settings: DeepSettings) -> nn.Module:
    """Merlin's ``MLPBlock``: linear, ReLU, normalisation and dropout for every width."""
    mm = torch_models()
    dropout = Dropout(settings.dropout) if settings.dropout else None
    # In place: a layer's output is written once and kept once.
    relu = nn.ReLU(inplace=True)
    if settings.normalisation == "none":
        return mm.MLPBlock(list(widths), activation=relu, dropout=dropout)
    kind = BatchNorm if settings.normalisation == "batch" else nn.LayerNorm
    # One block a layer: a block takes one normalising module, and would share it.
    return mm.Block(
        *[
            mm.MLPBlock([width], relu, normalization=kind(width), dropout=dropout)
            for width in widths
        ]
    )


def cross_block() -> type[nn.Module]:
    """Merlin's ``CrossBlock``: x ← x₀ ∘ f(x) + x for each of its modules f."""
    return torch_models().blocks.cross.CrossBlock


class Numbers(nn.Module):
    """The continuous columns side by side."""

    def __init__(self, schema: Schema) -> None:
        super().__init__()
        columns = schema.excluding_by_tag(Tags.TARGET).select_by_tag(Tags.CONTINUOUS)
        self.names = columns.column_names

    def forward(self, inputs: Inputs) -> torch.Tensor:
        """Columns ``(batch,)`` by name → ``(batch, columns)``."""
        return torch.stack([inputs[name].float() for name in self.names], dim=1)


class FirstOrder(nn.Module):
    """A weight for every code and one for every continuous column, summed: a linear model.

    Args:
        schema: of the columns that it reads.
    """

    def __init__(self, schema: Schema) -> None:
        super().__init__()
        codes = schema.excluding_by_tag(Tags.TARGET).select_by_tag(Tags.CATEGORICAL)
        self.codes = TableGroup(codes, 1, "normal") if codes else None
        self.numbers = Numbers(schema)
        width = len(self.numbers.names)
        self.linear = nn.Linear(width, 1, bias=False) if width else None

    def forward(self, inputs: Inputs) -> torch.Tensor:
        """→ ``(batch, 1)``."""
        terms = []
        if self.codes is not None:
            terms.append(stack_vectors(self.codes, inputs).sum(1))
        if self.linear is not None:
            terms.append(self.linear(self.numbers(inputs)))
        return sum(terms[1:], terms[0])


class FieldVectors(nn.Module):
    """A vector of one width for every column.

    A code's is its embedding; a continuous column has one vector, multiplied by its value.

    Raises:
        UserError: ``embedding_dim`` does not give all tables one width.
    """

    def __init__(self, schema: Schema, settings: EmbeddingSettings, model: str) -> None:
        super().__init__()
        schema = schema.excluding_by_tag(Tags.TARGET)
        self.dim = one_width(schema, settings, model)
        codes = schema.select_by_tag(Tags.CATEGORICAL)
        self.tables = (
            make_tables(codes, self.dim, settings.tables, settings.initialisation)
            if codes
            else None
        )
        self.numbers = Numbers(schema)
        self.fields = len(codes) + len(self.numbers.names)
        if self.numbers.names:
            vectors = torch.empty(len(self.numbers.names), self.dim)
            self.number_vectors = nn.Parameter(vectors.normal_(0.0, NORMAL_SCALE))

    def forward(self, inputs: Inputs) -> torch.Tensor:
        """→ ``(batch, fields, dim)``, the codes' before the numbers'."""
        parts = []
        if self.tables is not None:
            parts.append(stack_vectors(self.tables, inputs))
        if self.numbers.names:
            parts.append(self.numbers(inputs).unsqueeze(-1) * self.number_vectors)
        return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]


class FlatFeatures(nn.Module):
    """All embeddings and continuous values side by side; tables may differ in width."""

    def __init__(self, schema: Schema, settings: EmbeddingSettings) -> None:
        super().__init__()
        schema = schema.excluding_by_tag(Tags.TARGET)
        codes = schema.select_by_tag(Tags.CATEGORICAL)
        self.tables = (
            make_tables(codes, settings.embedding_dim, settings.tables, settings.initialisation)
            if codes
            else None
        )
        self.numbers = Numbers(schema)
        dims = settings.embedding_dim
        self.width = len(self.numbers.names) + sum(
            cardinality_dim(rows_of(column)) if dims == "cardinality" else dims for column in codes
        )

    def forward(self, inputs: Inputs) -> torch.Tensor:
        """→ ``(batch, width)``, the embeddings before the numbers."""
        parts = []
        if isinstance(self.tables, TableGroup):
            parts.append(self.tables.stacked(inputs).flatten(1))
        elif self.tables is not None:
            parts += self.tables(inputs).values()
        if self.numbers.names:
            parts.append(self.numbers(inputs))
        return torch.cat(parts, dim=1)


def sum_of_pairs(vectors: torch.Tensor) -> torch.Tensor:
    """Sum of the dot products of all pairs: ``(batch, fields, dim)`` → ``(batch, 1)``.

    In time linear in the fields: half of (square of the sum - sum of the squares).
    """
    square_of_sum = vectors.sum(1).square()
    sum_of_squares = vectors.square().sum(1)
    return 0.5 * (square_of_sum - sum_of_squares).sum(1, keepdim=True)


class PairAttention(nn.Module):
    """The pairwise products' mean, weighted by how much each pair matters.

    Xiao et al., 2017 (arXiv:1708.04617): the weight of a pair is the softmax over pairs of
    hᵀ ReLU(W p + b).

    Args:
        fields: number of vectors.
        dim: their width.
        size: rows of W.
    """

    def __init__(self, fields: int, dim: int, size: int) -> None:
        super().__init__()
        first, second = torch.triu_indices(fields, fields, offset=1)
        self.register_buffer("first", first, persistent=False)
        self.register_buffer("second", second, persistent=False)
        self.hidden = nn.Linear(dim, size)
        self.score = nn.Linear(size, 1, bias=False)

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """``(batch, fields, dim)`` → ``(batch, dim)``."""
        products = vectors.index_select(1, self.first) * vectors.index_select(1, self.second)
        scores = self.score(torch.relu(self.hidden(products)))
        return (torch.softmax(scores, dim=1) * products).sum(dim=1)


def required_inputs(schema: Schema, model: str, *needed: Tags) -> None:
    """Checks that there are columns of every needed kind, and some at all.

    Raises:
        UserError: naming ``model`` and the kind.
    """
    inputs = schema.excluding_by_tag(Tags.TARGET)
    for tag in needed:
        if not inputs.select_by_tag(tag):
            raise UserError(
                f"model {model}: needs columns tagged {tag.name}; the features have none"
            )
    if not any(inputs.select_by_tag(tag) for tag in (Tags.CATEGORICAL, Tags.CONTINUOUS)):
        raise UserError(
            f"model {model}: needs columns tagged CATEGORICAL or CONTINUOUS; the features have none"
        )
    for column in inputs.select_by_tag(Tags.CONTINUOUS):
        if column.is_list:
            raise UserError(
                f"model {model}: column {column.name} holds lists of numbers; give its vectors a "
                "column a dimension, or leave it out of the features"
            )


def required_pairs(schema: Schema, model: str) -> None:
    """Checks that there are two columns at least, whose product can be taken.

    Raises:
        UserError: naming ``model`` and the columns found.
    """
    required_inputs(schema, model)
    inputs = schema.excluding_by_tag(Tags.TARGET).column_names
    if len(inputs) < 2:
        raise UserError(
            f"model {model}: needs two columns to multiply; the features have {inputs[0]} alone"
        )


def one_width(schema: Schema, settings: EmbeddingSettings, model: str) -> int:
    """``embedding_dim``, for a model that multiplies the vectors of different columns.

    Raises:
        UserError: naming model, setting and two columns that would differ.
    """
    if settings.embedding_dim != "cardinality":
        return settings.embedding_dim
    codes = schema.select_by_tag(Tags.CATEGORICAL)
    widths = {c.name: cardinality_dim(rows_of(c)) for c in codes}
    narrow, wide = (which(widths, key=widths.get, default=None) for which in (min, max))
    example = f" ({narrow}: {widths[narrow]}, {wide}: {widths[wide]})" if widths else ""
    raise UserError(
        f"model {model}: ranking.{model}.embedding_dim 'cardinality' gives tables of different "
        f"widths{example}, and {model} multiplies their vectors; set a number"
    )
