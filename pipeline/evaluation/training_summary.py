"""How a training went, in a line: what ``train`` says last."""

from typing import Any

from core.console import counted
from pipeline.evaluation.metric_names import headlines

UNITS = {"ranking": "rows", "sessions": "sessions", "interactions": "rows"}
"""What a training batch of each recipe is made of."""


def in_words(recipe: str, record: dict[str, Any], result: Any) -> str:
    """Steps, time, the best validation, and why it ended there.

    Args:
        record: what ``model.json`` holds.
        result: the :class:`~training.run.FitResult`.
    """
    metrics, unit = _headlines(result.metrics), UNITS[recipe].removesuffix("s")
    seconds = f"{result.seconds:.1f} s" if result.seconds < 10 else f"{result.seconds:.0f} s"
    if not result.history:  # No loop wrote one: the model counts.
        once = f"counted {counted(record['rows'], unit)} once in {seconds}"
        return f"{once}; on the validation split {metrics}" if metrics else once
    speed = f"{result.samples_per_second:,.0f} {UNITS[recipe]}/s"
    parts = [f"{counted(result.steps, 'step')} in {seconds} ({speed})"]
    if metrics:
        parts.append(f"best on the validation split at step {result.best_step:,}: {metrics}")
    end = ending(recipe, record)
    return "; ".join([*parts, end] if end else parts)


def ending(recipe: str, record: dict[str, Any]) -> str:
    """What should be known of a training's end; nothing where there is nothing to do about it."""
    learned, settings = record["learned"], record["train"]
    if learned["stopped"] == "patience":
        steps = f"at step {learned['steps']:,} of {learned['planned_steps']:,}"
        return f"stopped early {steps}: no better for {counted(settings['patience'], 'validation')}"
    if not learned["still_improving"]:
        return ""
    by_steps = settings["max_steps"] == learned["planned_steps"]
    name, more = ("max_steps", "steps") if by_steps else ("epochs", "epochs")
    setting = f"{recipe}.train.{name}, now {settings[name]:,}"
    return f"still improving at its last step: more {more} may help ({setting})"


def _headlines(metrics: dict[str, float]) -> str:
    """The main metrics; all are in the history."""
    known = [name for name in headlines(metrics) if metrics[name] is not None]
    return ", ".join(f"{name} {metrics[name]:.4f}" for name in known)
