"""Embedding tables of fewer weights: shared rows, or narrower ones.

Every class has the door of ``TableGroup``, and is made of such groups: codes ``(batch,)`` by name
→ vectors ``(batch, dim)`` by name. Vectors start with the variance that a full table's would have.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from core.errors import UserError
from core.merlin import ColumnSchema, Schema
from core.names import key_of
from training.embeddings import (
    NORMAL_SCALE,
    Initialisation,
    Projection,
    TableGroup,
    initialise,
)
from training.ranking.settings import TableSettings

Vectors = dict[str, torch.Tensor]

NEAR_ONE = 0.1
"""Deviation from 1 of the factors that start there."""


def make_tables(
    schema: Schema,
    dim: int | str,
    settings: TableSettings,
    initialisation: Initialisation,
) -> nn.Module:
    """The tables of the CATEGORICAL columns of ``schema``.

    Args:
        dim: width of every vector, or ``cardinality``: each table has its own.

    Raises:
        UserError: settings that exclude each other, naming them.
    """
    if dim == "cardinality":
        if settings.kind != "full":
            raise UserError(
                f"tables.kind {settings.kind}: needs one embedding_dim for all tables, "
                "got 'cardinality'; set a number"
            )
        dims = {column.name: cardinality_dim(rows_of(column)) for column in schema}
        return WidthGroups(schema, dims, initialisation)
    if settings.kind == "quotient_remainder":
        return QuotientRemainderTables(schema, dim, settings, initialisation)
    if settings.kind == "hashed":
        return HashedTables(schema, dim, settings, initialisation)
    if settings.kind == "mixed":
        return MixedTables(schema, dim, settings, initialisation)
    return TableGroup(schema, dim, initialisation)


def rows_of(column: ColumnSchema) -> int:
    """Codes of a categorical column."""
    return int(column.int_domain.max) + 1


def cardinality_dim(rows: int) -> int:
    """2·⁴√rows, the field's rule of thumb for the width of a table."""
    return max(1, round(2 * rows**0.25))


class QuotientRemainderTables(nn.Module):
    """Two tables a column: row ``code // collisions`` of one, ``code % collisions`` of the other.

    Shi et al., "Compositional embeddings using complementary partitions for memory-efficient
    recommendation systems", 2019 (arXiv:1909.02107). Every code keeps a vector of its own.
    Columns of lists keep full tables: a bag's product is not the product of its bags.
    """

    def __init__(
        self, schema: Schema, dim: int, settings: TableSettings, initialisation: Initialisation
    ) -> None:
        super().__init__()
        self.names = schema.column_names
        self.collisions, self.operation = settings.collisions, settings.operation
        self.split = [
            name
            for name in _larger_than(schema, max(settings.threshold, settings.collisions))
            if not schema[name].is_list
        ]
        width = dim
        if self.operation == "concatenate":
            if dim % 2:
                raise UserError(
                    f"embedding_dim {dim}: tables.operation concatenate joins two halves; "
                    "set an even number"
                )
            width = dim // 2
        self.full = _group(schema, self.split, dim, initialisation)
        rows = {c.name: rows_of(c) for c in schema if c.name in self.split}
        self.parts = _resized(
            schema,
            {
                f"{name}{part}": (name, count)
                for name, total in rows.items()
                for part, count in (
                    ("//", -(-total // self.collisions)),
                    ("%", self.collisions),
                )
            },
            width,
            initialisation,
        )
        if self.parts is not None:
            self._initialise(rows, initialisation)

    @torch.no_grad()
    def _initialise(self, rows: dict[str, int], initialisation: Initialisation) -> None:
        """Vectors start with a full table's deviation.

        A sum's variance is the sum of the two. Of a product one factor starts near 1: where both
        start near 0, the gradient of each is next to nothing.
        """
        for name, total in rows.items():
            wanted = _deviation(total, initialisation)
            quotients = _weights(self.parts, f"{name}//", -(-total // self.collisions))
            remainders = _weights(self.parts, f"{name}%", self.collisions)
            if self.operation == "multiply":
                _fill(quotients, wanted, initialisation)
                remainders.normal_(1.0, NEAR_ONE)
                continue
            share = 2**-0.5 if self.operation == "add" else 1.0
            for weight in (quotients, remainders):
                _fill(weight, wanted * share, initialisation)

    def forward(self, inputs: Vectors, batch: Any = None) -> Vectors:
        """Codes ``(batch,)`` by name → vectors ``(batch, dim)`` by name."""
        found = self.full(inputs) if self.full is not None else {}
        if self.parts is not None:
            codes = {}
            for name in self.split:
                codes[f"{name}//"] = inputs[name] // self.collisions
                codes[f"{name}%"] = inputs[name] % self.collisions
            rows = self.parts(codes)
            for name in self.split:
                found[name] = self._join(rows[f"{name}//"], rows[f"{name}%"])
        return {name: found[name] for name in self.names}

    def _join(self, quotient: torch.Tensor, remainder: torch.Tensor) -> torch.Tensor:
        if self.operation == "multiply":
            return quotient * remainder
        if self.operation == "add":
            return quotient + remainder
        return torch.cat([quotient, remainder], dim=-1)


class HashedTables(nn.Module):
    """A column's codes share rows by their remainder: ``rows / collisions`` of them.

    Codes rise as values get rarer, so that the frequent ones do not meet each other.
    """

    def __init__(
        self, schema: Schema, dim: int, settings: TableSettings, initialisation: Initialisation
    ) -> None:
        super().__init__()
        shared = set(_larger_than(schema, settings.threshold))
        self.names = schema.column_names
        self.rows = {
            c.name: -(-rows_of(c) // settings.collisions) for c in schema if c.name in shared
        }
        # A name of its own, and no other column's: these rows are not the column's codes any more.
        taken = [*self.names, *(column.int_domain.name for column in schema)]
        self.mark = "#" * (1 + max(len(name) - len(name.rstrip("#")) for name in taken))
        self.keys = {name: name + self.mark if name in shared else name for name in self.names}
        tables = {self.keys[c.name]: (c.name, self.rows.get(c.name, rows_of(c))) for c in schema}
        self.tables = _resized(schema, tables, dim, initialisation)
        for name, rows in self.rows.items():
            # As a full table's rows: fewer of them would start wider with dlrm.
            shared_rows = _weights(self.tables, self.keys[name], rows)
            initialise(shared_rows, initialisation, rows_of(schema[name]))

    def forward(self, inputs: Vectors, batch: Any = None) -> Vectors:
        """Codes ``(batch,)`` by name → vectors ``(batch, dim)`` by name."""
        codes = dict(inputs)
        for name, rows in self.rows.items():
            if name in inputs:
                codes[self.keys[name]] = inputs[name] % rows
            else:
                codes[f"{self.keys[name]}__values"] = inputs[f"{name}__values"] % rows
                codes[f"{self.keys[name]}__offsets"] = inputs[f"{name}__offsets"]
        found = self.tables(codes)
        return {name: found[key] for name, key in self.keys.items()}


class WidthGroups(nn.Module):
    """Tables of several widths, those of one width together.

    Args:
        dims: width of each column's vectors by name.
    """

    def __init__(
        self, schema: Schema, dims: dict[str, int], initialisation: Initialisation
    ) -> None:
        super().__init__()
        self.names, self.dims = schema.column_names, dims
        self.groups = nn.ModuleList(
            TableGroup(
                schema.select_by_name([name for name in self.names if dims[name] == width]),
                width,
                initialisation,
            )
            for width in sorted(set(dims.values()))
        )

    def forward(self, inputs: Vectors, batch: Any = None) -> Vectors:
        """Codes ``(batch,)`` by name → vectors ``(batch, the column's width)`` by name."""
        found: Vectors = {}
        for group in self.groups:
            found |= group(inputs)
        return {name: found[name] for name in self.names}


class MixedTables(nn.Module):
    """Narrow rows where a table has many, each table then projected to ``dim``.

    Ginart et al., "Mixed dimension embeddings with application to memory-efficient recommendation
    systems", 2019 (arXiv:1909.11810): the width is ``dim · (rows / fewest rows)^-temperature``,
    rounded to a power of two. ``threshold`` stands for the fewest rows where it is larger.
    """

    def __init__(
        self, schema: Schema, dim: int, settings: TableSettings, initialisation: Initialisation
    ) -> None:
        super().__init__()
        rows = {c.name: rows_of(c) for c in schema}
        fewest = max(settings.threshold, min(rows.values()))
        dims = {
            name: mixed_dim(dim, count / fewest, settings.temperature)
            for name, count in rows.items()
        }
        self.tables = WidthGroups(schema, dims, initialisation)
        self.keys = {name: key_of(name) for name, width in dims.items() if width < dim}
        self.projections = nn.ModuleDict(
            {key: Projection(dims[name], dim) for name, key in self.keys.items()}
        )

    def forward(self, inputs: Vectors, batch: Any = None) -> Vectors:
        """Codes ``(batch,)`` by name → vectors ``(batch, dim)`` by name."""
        found = self.tables(inputs)
        return {
            name: self.projections[self.keys[name]](vectors) if name in self.keys else vectors
            for name, vectors in found.items()
        }


def mixed_dim(dim: int, ratio: float, temperature: float) -> int:
    """The width of a table with ``ratio`` times the fewest rows, at most ``dim``."""
    wanted = dim * max(1.0, ratio) ** -temperature
    if wanted >= dim:
        return dim
    return min(dim, 2 ** max(0, round(float(torch.log2(torch.tensor(wanted))))))


def _larger_than(schema: Schema, rows: int) -> list[str]:
    return [column.name for column in schema if rows_of(column) > rows]


def _group(
    schema: Schema, without: Iterable[str], dim: int, initialisation: Initialisation
) -> TableGroup | None:
    names = [name for name in schema.column_names if name not in set(without)]
    return TableGroup(schema.select_by_name(names), dim, initialisation) if names else None


def _resized(
    schema: Schema,
    tables: dict[str, tuple[str, int]],
    dim: int,
    initialisation: Initialisation,
) -> TableGroup | None:
    """Tables by name, each ``(column it serves, rows)``; shared domains stay shared."""
    columns = []
    for name, (source, rows) in tables.items():
        domain = f"{schema[source].int_domain.name}{name.removeprefix(source)}"
        column = schema[source].with_name(name)
        columns.append(
            column.with_properties({"domain": {"min": 0, "max": rows - 1, "name": domain}})
        )
    return TableGroup(Schema(columns), dim, initialisation) if columns else None


def _weights(group: TableGroup, name: str, rows: int) -> torch.Tensor:
    """The rows of one table, ``(rows, dim)``."""
    start = group.rows(name).start
    return group.table.weight[start : start + rows]


def _deviation(rows: int, initialisation: Initialisation) -> float:
    """Standard deviation of a full table's entries; see :func:`training.embeddings.initialise`."""
    return (3 * rows) ** -0.5 if initialisation == "dlrm" else NORMAL_SCALE


def _fill(weight: torch.Tensor, deviation: float, initialisation: Initialisation) -> None:
    """Starts a table with entries of ``deviation``, in the shape that ``initialisation`` has."""
    if initialisation == "dlrm":
        bound = deviation * 3**0.5
        weight.uniform_(-bound, bound)
    else:
        weight.normal_(0.0, deviation)
