"""The report's figures, one SVG each, sized by what they show."""

import io
import warnings
from collections.abc import Callable
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

INK, MUTED, GRID = "#222222", "#666666", "#dddddd"
BLUE, ORANGE, GREY = "#3b6fb6", "#d9822b", "#b8bec6"
SPLIT_COLOURS = {"train": GREY, "valid": BLUE, "test": ORANGE}
WIDTH, ROW = 9.5, 0.27
"""Inches: of a figure, and of one column's line in it."""
LONGEST = 40
"""Characters of a name at an axis."""
STABLE, SHIFTED = 0.1, 0.25
"""The usual marks of the PSI."""
BY_CHANCE = 2
"""Times the mean PSI of two draws from one distribution: up to there a PSI says nothing."""
STYLE = {
    "font.size": 9,
    "axes.edgecolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": MUTED,
    "ytick.color": INK,
    # The same report gives the same bytes: no random names within the SVG.
    "svg.hashsalt": "data-report",
}

Report = dict[str, Any]


def _figure(lines: int, draw: Callable[[Any], None], extra: float = 0.9) -> Figure:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, extra + ROW * max(lines, 2)), layout="constrained")
        draw(figure.add_subplot())
        return figure


def svg(figure: Figure) -> str:
    """A figure as an SVG element without any reference to elsewhere."""
    text = io.StringIO()
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


def days(report: Report) -> Figure:
    """Rows a day, and the click rate over them where there is one."""
    found = report["by_day"]
    names = [entry["day"] for entry in found]
    at = np.arange(len(names))

    def draw(axes: Any) -> None:
        axes.bar(at, [entry["rows"] for entry in found], color=GREY, width=0.7)
        axes.set_ylabel("rows")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        step = max(1, -(-len(names) // 24))
        turned = {"rotation": 45, "ha": "right"} if len(names) > 8 else {}
        axes.set_xticks(at[::step], axis_labels(names[::step]), **turned, parse_math=False)
        rates = [entry.get("click_rate") for entry in found]
        if any(rate is not None for rate in rates):
            right = axes.twinx()
            right.plot(at, [np.nan if r is None else r for r in rates], color=ORANGE, marker="o")
            right.set_ylim(0, 1.15 * max(rate or 0 for rate in rates) or 1)
            right.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
            right.set_ylabel("share of clicks", color=ORANGE)
            right.spines["right"].set_visible(True)

    return _figure(7, draw)


def missing(report: Report) -> Figure:
    """Share of missing values of each column, and of each split where they differ."""
    columns = report["columns"]

    def draw(axes: Any) -> None:
        values = [column["missing"] for column in columns]
        _lines(axes, [column["column"] for column in columns])
        axes.barh(range(len(values)), values, color=GRID, height=0.65)
        for at, value in enumerate(values):
            by_split = columns[at].get("missing_by_split", {})
            for split, share in by_split.items():
                axes.plot(share, at, "|", color=SPLIT_COLOURS[split], markersize=9)
            right = max(value, *by_split.values()) if by_split else value
            axes.text(right + 0.01, at, _share(value), va="center", fontsize=8, color=MUTED)
        axes.set_xlim(0, 1.08)
        _percent(axes)

    return _figure(len(columns), draw)


def vocabulary(report: Report) -> Figure:
    """Distinct training values with and without a code, on a log scale."""
    columns = [column for column in report["columns"] if "cardinality" in column]

    def draw(axes: Any) -> None:
        _lines(axes, [column["column"] for column in columns])
        for at, column in enumerate(columns):
            kept = column.get("kept", 0)
            axes.barh(at, column["cardinality"], color=GREY, height=0.65)
            axes.barh(at, kept, color=BLUE, height=0.65)
            told = f"{kept:,} of {column['cardinality']:,}"
            lost = column.get("dropped_share", 0)
            told += f", the rest {_share(lost)} of the rows" if lost else ""
            axes.text(
                max(1, column["cardinality"]) * 1.1, at, told, va="center", fontsize=8, color=MUTED
            )
        axes.set_xscale("log")
        most = max((column["cardinality"] for column in columns), default=1)
        axes.set_xlim(0.8, max(10, most) ** 1.5)

    return _figure(len(columns), draw)


def unseen(report: Report) -> Figure:
    """Share of values without a code of their own, and of those that no training row has."""
    columns = [column for column in report["columns"] if "unknown" in column]

    def draw(axes: Any) -> None:
        _lines(axes, [column["column"] for column in columns])
        for split, offset in (("train", -0.26), ("valid", 0), ("test", 0.26)):
            values = [column["unknown"].get(split, 0) for column in columns]
            colour = SPLIT_COLOURS[split]
            axes.barh(np.arange(len(values)) + offset, values, 0.24, color=colour, label=split)
        never = [(at, c["unseen"].get("test")) for at, c in enumerate(columns) if "unseen" in c]
        never = [(at, share) for at, share in never if share is not None]
        if never:
            places, shares = zip(*never, strict=True)
            at = np.array(places) + 0.26
            axes.plot(
                shares, at, "|", color=INK, markersize=7, label="test: never seen in training"
            )
        above = {"loc": "lower right", "bbox_to_anchor": (1, 1), "ncols": 4}
        axes.legend(frameon=False, fontsize=8, **above)
        axes.set_xlim(left=0)
        _percent(axes)

    return _figure(round(len(columns) * 1.25), draw)


def drift(report: Report) -> Figure:
    """PSI of every column and day against the training rows; grey where chance gives as much."""
    columns = report["columns"]
    names = [entry["day"] for entry in report["by_day"]]
    values = np.array(
        [[np.nan if v is None else v for v in column["psi_by_day"]] for column in columns]
    )
    chance = np.array([[v or 0.0 for v in column["psi_by_chance"]] for column in columns])
    with np.errstate(invalid="ignore"):
        drifted = np.where(values > BY_CHANCE * chance, values, np.nan)

    def draw(axes: Any) -> None:
        with np.errstate(invalid="ignore"):
            shown = axes.imshow(drifted, aspect="auto", cmap="OrRd", vmin=0, vmax=2 * SHIFTED)
        step = max(1, -(-len(names) // 24))
        turned = {"rotation": 45, "ha": "right"} if len(names) > 8 else {}
        days = axis_labels(names[::step])
        axes.set_xticks(np.arange(len(names))[::step], days, **turned, parse_math=False)
        _label(axes, [column["column"] for column in columns])
        axes.tick_params(length=0)
        if len(names) <= 16:
            for (row, day), value in np.ndenumerate(values):
                if not np.isnan(value):
                    colour = "white" if value > SHIFTED * 1.2 else INK
                    colour = MUTED if np.isnan(drifted[row, day]) else colour
                    told = f"{value:.2f}"
                    axes.text(day, row, told, ha="center", va="center", fontsize=7.5, color=colour)
        bar = axes.figure.colorbar(shown, ax=axes, pad=0.02, fraction=0.03, extend="max")
        bar.set_ticks([0, STABLE, SHIFTED, 2 * SHIFTED])

    return _figure(len(columns), draw)


def _lines(axes: Any, names: list[str]) -> None:
    """One line a column, the first on top."""
    _label(axes, names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="x", color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)


def _label(axes: Any, names: list[str]) -> None:
    """A name a line, as it is: matplotlib would set what is between two $ as a formula."""
    axes.set_yticks(range(len(names)), axis_labels(names), parse_math=False)


def axis_labels(names: list[str]) -> list[str]:
    """Names that fit at an axis, without line ends and other characters that have no glyph."""
    plain = ("".join(c if c.isprintable() else "\ufffd" for c in name) for name in names)
    return [name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…" for name in plain]


def _percent(axes: Any) -> None:
    axes.xaxis.set_major_formatter(lambda value, _: _share(value))


def _share(value: float) -> str:
    return f"{100 * value:.3g}%"
