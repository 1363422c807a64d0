"""Reading of Parquet files that stages of ours wrote: a damaged one is one error that names it."""

import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from core.errors import UserError
from core.sums import check_expected

if TYPE_CHECKING:
    import polars as pl

LONGEST = 200
"""Characters of a library's message that ours repeats."""


@contextlib.contextmanager
def reading(path: str | Path, check: bool = True) -> Iterator[None]:
    """Turns what pyarrow and polars raise while they read ``path`` into one error.

    A file whose checksum is expected (:func:`core.sums.expect`) is checked when it is first read.

    Errors of the machine, such as a lack of memory, a missing permission or a full disk, pass.

    Raises:
        UserError: the file is absent or damaged.
    """
    try:
        if check:
            check_expected(path)
        yield
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run the stage that makes it again") from None
    except (MemoryError, UserError):
        raise
    except OSError as error:
        if error.errno is not None:
            raise
        raise _damaged(path, error) from error
    except (pa.ArrowException, *_errors_of_polars()) as error:
        if "llocat" in str(error):  # of memory
            raise
        raise _damaged(path, error) from error
    except (EOFError, KeyError, UnicodeDecodeError) as error:
        raise _damaged(path, error) from error


def read_table(path: str | Path, columns: Sequence[str] | None = None, **options: Any) -> pa.Table:
    """The columns of a file (None: all) as pyarrow reads them.

    Raises:
        UserError: the file is absent or damaged.
    """
    with reading(path):
        return pq.read_table(path, columns=None if columns is None else list(columns), **options)


def read_frame(
    path: str | Path, columns: Sequence[str] | None = None, **options: Any
) -> "pl.DataFrame":
    """The columns of a file (None: all) as polars reads them.

    Raises:
        UserError: the file is absent or damaged.
    """
    import polars as pl  # takes as long to import as a small log to read
    from polars import selectors

    with reading(path):
        # As they are: polars takes a name such as "*" or "^a.*$" for a pattern.
        chosen = None if columns is None else [selectors.by_name(*columns)]
        return pl.read_parquet(Path(path), columns=chosen, glob=False, **options)


def read_footer(path: str | Path) -> pq.FileMetaData:
    """The footer of a file: its columns, row groups and statistics.

    Raises:
        UserError: the file is absent or damaged.
    """
    with reading(path, check=False):  # It says little of the file, and all are read at once.
        return pq.read_metadata(path)


def read_row_groups(
    path: str | Path, groups: Sequence[int], columns: Sequence[str], memory_map: bool = False
) -> pa.Table:
    """Some row groups of a file, by one thread.

    Raises:
        UserError: the file is absent or damaged.
    """
    with reading(path), pq.ParquetFile(path, memory_map=memory_map) as file:
        return file.read_row_groups(list(groups), columns=list(columns), use_threads=False)


def _errors_of_polars() -> tuple[type[BaseException], ...]:
    if "polars" not in sys.modules:  # and so none of them was raised
        return ()
    from polars import exceptions

    return exceptions.PolarsError, exceptions.PanicException


def _damaged(path: str | Path, error: BaseException) -> UserError:
    text = " ".join(str(error).split())
    text = text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
    return UserError(
        f"{path}: not a whole Parquet file, or not the one that was written ({text}); run the "
        "stage that makes it again"
    )
