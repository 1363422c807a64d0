"""What every column of category codes tells training: how many codes it may hold."""

from typing import Any

from core.merlin import ColumnSchema

PADDING, NULL, OOV = 0, 1, 2
"""The first codes, as NVTabular gives them: padding, missing, and a value not seen before."""
FIRST_BUCKET = 3
"""First code of operators without a vocabulary, which never give OOV."""


def with_codes(column: ColumnSchema, cardinality: int, **properties: Any) -> ColumnSchema:
    """``column`` with the domain 0 … ``cardinality`` - 1 and NVTabular's embedding size for it."""
    dimension = min(16, round(1.6 * cardinality**0.56))
    added = {
        "domain": {"min": 0, "max": cardinality - 1, "name": column.name},
        "embedding_sizes": {"cardinality": cardinality, "dimension": dimension},
        **properties,
    }
    return column.with_properties({**column.properties, **added})
