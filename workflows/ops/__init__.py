"""Operators of our own, one a file; each is a drop-in for, or a neighbour of, NVTabular's."""

from workflows.ops.as_float import AsFloat
from workflows.ops.categorify import Categorify
from workflows.ops.normalize import Normalize
from workflows.ops.session_clock import SessionClock
from workflows.ops.session_lists import SessionLists

__all__ = ["AsFloat", "Categorify", "Normalize", "SessionClock", "SessionLists"]
