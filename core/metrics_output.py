"""A metrics file and the folder of plots that belongs to it, which change together."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from core.artifacts import atomic_path, json_text, write_json
from core.errors import UserError
from core.kinds import Kind, has_keys
from core.outputs import Claim, check_replaceable, claimed, claimed_file, resolved


class MetricsOutput:
    """A claimed metrics file and folder of plots."""

    def __init__(self, file: Path, plots: Claim, keys: Iterable[str]) -> None:
        self.file, self.plots, self._keys = file, plots, tuple(keys)

    def _remove_file(self) -> None:
        """Deletes the old metrics, at the last moment before the plots change."""
        check_replaceable(self.file, lambda path: has_keys(path, self._keys))
        self.file.unlink(missing_ok=True)

    def publish(self, metrics: Any, write_plots: Callable[[Path], None]) -> None:
        """Writes both. Killed at any moment, no metrics are beside plots of another run.

        Args:
            metrics: JSON.
            write_plots: fills an empty folder.
        """
        with self.plots.building() as folder:
            write_plots(folder)
            if self.file.is_relative_to(self.plots.folder):
                write_json(folder / self.file.relative_to(self.plots.folder), metrics)
                self.plots.publish(folder)
                return
            with atomic_path(self.file) as partial:
                partial.write_text(json_text(metrics), encoding="utf-8")
                self.plots.publish(folder, self._remove_file)


@contextlib.contextmanager
def claimed_metrics(
    file: str | Path,
    plots: str | Path,
    kind: Kind,
    inputs: Iterable[str | Path],
    keys: Iterable[str],
) -> Iterator[MetricsOutput]:
    """Claims both outputs for the block.

    Args:
        file: JSON file, which may be inside ``plots``.
        kind: of the folder ``plots``.
        inputs: files and folders that the run reads.
        keys: of the JSON object, by which an earlier one is known.

    Raises:
        UserError: one of them may not be written.
    """
    inputs = list(inputs)
    with claimed(plots, kind, inputs) as claim:
        if resolved(file).is_relative_to(claim.folder):
            if resolved(file) == claim.folder:
                raise UserError(f"{file}: is named for the metrics and for the plots; name two")
            yield MetricsOutput(resolved(file), claim, keys)
            return
        if claim.folder.is_relative_to(resolved(file)):
            raise UserError(f"{file}: is named for the metrics and holds the plots; name another")
        with claimed_file(file, inputs, lambda path: has_keys(path, keys)) as whole:
            yield MetricsOutput(whole, claim, keys)
