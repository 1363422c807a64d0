"""Which evaluation protocol goes with which split of the sessions."""

from pathlib import Path

from core.artifacts import read_json
from core.errors import UserError
from pipeline.params import Params
from training.sessions.settings import SessionEvaluationSettings

LEAVE_ONE_OUT = "leave_one_out"


def session_evaluation(params: Params, features: str | Path) -> SessionEvaluationSettings:
    """The settings ``sessions.evaluate``, if ``features`` can be judged by them.

    Raises:
        UserError: the protocol asks for events that trained, or for a split that is not there.
    """
    settings = params.section("sessions.evaluate")
    bounds = read_json(Path(features) / "manifest.json").get("bounds", {})
    split = bool(bounds.get(LEAVE_ONE_OUT))
    if split and settings.protocol != LEAVE_ONE_OUT:
        raise UserError(
            f"sessions.evaluate.protocol: {settings.protocol} does not fit {features}, which were "
            "split by leave_one_out: all but the last two events of a sequence train, so only the "
            f"last may be asked for. Set sessions.evaluate.protocol to {LEAVE_ONE_OUT}"
        )
    if settings.protocol == LEAVE_ONE_OUT and not split:
        raise UserError(
            f"sessions.evaluate.protocol: {LEAVE_ONE_OUT} needs features that were split so, and "
            f"{features} were not. Set sessions.preprocess.split.kind to {LEAVE_ONE_OUT} and run "
            "'merlin-pipeline preprocess sessions' again, or set the protocol to last_item"
        )
    return settings
