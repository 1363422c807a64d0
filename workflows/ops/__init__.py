"""Operators of our own, one a file; each is a drop-in for, or a neighbour of, NVTabular's."""

from workflows.ops.as_float import AsFloat
from workflows.ops.bucketize import Bucketize
from workflows.ops.categorify import Categorify
from workflows.ops.count_encoding import CountEncoding
from workflows.ops.fill_median import FillMedian
from workflows.ops.first_values import FirstValues
from workflows.ops.hash_bucket import HashBucket
from workflows.ops.hashed_cross import HashedCross
from workflows.ops.joint_value import JointValues
from workflows.ops.log_squared import LogSquared
from workflows.ops.min_max import NormalizeMinMax
from workflows.ops.normalize import Normalize
from workflows.ops.row_fold import RowFold
from workflows.ops.session_clock import SessionClock
from workflows.ops.session_lists import SessionLists
from workflows.ops.split_vector import SplitVector
from workflows.ops.target_encoding import TargetEncoding

__all__ = [
    "AsFloat",
    "Bucketize",
    "Categorify",
    "CountEncoding",
    "FillMedian",
    "FirstValues",
    "HashBucket",
    "HashedCross",
    "JointValues",
    "LogSquared",
    "Normalize",
    "NormalizeMinMax",
    "RowFold",
    "SessionClock",
    "SessionLists",
    "SplitVector",
    "TargetEncoding",
]
