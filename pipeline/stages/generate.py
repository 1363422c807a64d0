"""Stage *generate*: a synthetic log of a named kind, written whole or not at all."""

from pathlib import Path
from typing import Any

from core import kinds
from core.console import progress, say
from core.errors import UserError
from core.outputs import claimed
from core.settings import Settings
from core.sums import files_below, sums_of, write_manifest
from pipeline.synthetic.criteo import CriteoGenerateSettings, generate_criteo
from pipeline.synthetic.random_ids import RandomGenerateSettings, generate_random
from pipeline.synthetic.sessions import SessionsGenerateSettings, generate_sessions
from pipeline.synthetic.trace import TraceGenerateSettings, generate_trace

MANIFEST = "manifest.json"
# Kind → its settings, its generator, and what its size is counted in.
GENERATORS: dict[str, tuple[type[Settings], Any, str]] = {
    "ranking": (CriteoGenerateSettings, generate_criteo, "rows"),
    "sessions": (SessionsGenerateSettings, generate_sessions, "sessions"),
    "random": (RandomGenerateSettings, generate_random, "rows"),
    "trace": (TraceGenerateSettings, generate_trace, "rows"),
}


def generate(kind: str, settings: Settings, output: str | Path) -> dict[str, Any]:
    """Writes a synthetic log into the folder ``output``, which it replaces as a whole.

    Args:
        kind: ``ranking``, ``sessions``, ``random`` or ``trace``.
        settings: of the class that ``GENERATORS`` names for the kind.
        output: folder of the log; as it was if anything fails.

    Returns:
        The manifest, which is also in ``manifest.json`` there.

    Raises:
        UserError: for another kind, settings that are not the kind's, or a fault in them.
    """
    if kind not in GENERATORS:
        raise UserError(f"generate {kind}: expected one of {', '.join(GENERATORS)}")
    settings_class, generator, unit = GENERATORS[kind]
    if not isinstance(settings, settings_class):
        raise UserError(
            f"generate {kind}: expected {settings_class.__name__}, got {type(settings).__name__}"
        )
    total = getattr(settings, unit)
    with (
        claimed(output, kinds.GENERATED) as claim,
        claim.replaced() as folder,
        progress(f"generate {kind}", total, unit) as advance,
    ):
        manifest = generator(settings, folder, advance)
        names = [name for name in files_below(folder) if name != MANIFEST]
        manifest = write_manifest(folder / MANIFEST, manifest, sums_of(folder, names))
    say(f"generate: {total:,} {unit} → {output}")
    return manifest
