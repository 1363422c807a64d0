"""What every format gives before its values are typed: columns, line numbers, bad lines."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipeline.ingest.quarantine import BadLine


@dataclass(frozen=True)
class Rows:
    """Rows of one piece of a file: ``arrays`` by the log's own column names.

    ``lines`` are the rows' line numbers, ``text(row)`` is a row's own text, and ``bad`` the lines
    that are not among the rows.
    """

    arrays: dict[str, pa.Array]
    lines: np.ndarray
    text: Callable[[int], bytes]
    bad: list[BadLine]
    bytes_read: int
