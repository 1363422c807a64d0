"""How much of the data the report tells."""

from pydantic import Field

from core.settings import Settings


class DataReportSettings(Settings):
    """What the data report counts, and how finely."""

    top_values: int = Field(10, ge=0)
    """Most frequent values listed of each categorical column."""
    psi_bins: int = Field(20, ge=2)
    """Bins for the drift between days: most frequent values beside the rest, or quantiles."""
    psi_least_rows: int = Field(1000, ge=1)
    """Days of fewer rows have no drift: chance alone would give them a large one."""
