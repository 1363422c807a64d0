"""NVTabular's HashedCross with a hash that keeps its columns apart."""

import functools
import operator

import numpy as np

from core import frames
from core.merlin import Tags, ops
from workflows.ops.codes import FIRST_BUCKET, NULL, with_codes
from workflows.ops.stable_hash import combine, hash_column


class HashedCross(ops.HashedCross):
    """One categorical column of the combinations of several, hashed: ``A_X_B``.

    A drop-in for ``nvtabular.ops.HashedCross`` (crosses as in Cheng et al., Wide & Deep, 2016).
    NVTabular's takes the exclusive or of the columns' hashes, so that (a, b) and (b, a) fall
    together and every pair of equal values is 0, and its schema gives neither a tag nor a domain.
    Here a cross is hashed in column order, with the codes of
    :class:`workflows.ops.HashBucket`: 1 where all columns are missing, then 3 and more. A missing
    value beside one that is there counts as a value.
    """

    def transform(self, col_selector, df):
        hashes, masks = zip(*(hash_column(df[name]) for name in col_selector.names), strict=True)
        codes = (combine(list(hashes)) % np.uint64(self.num_buckets)).astype(self.output_dtype)
        codes += FIRST_BUCKET
        codes[functools.reduce(operator.and_, masks)] = NULL
        return frames.frame_of(df, {"_X_".join(col_selector.names): codes})

    @property
    def output_tags(self):
        return [Tags.CATEGORICAL]

    def _compute_properties(self, col_schema, input_schema):
        # The properties of what is crossed say nothing about the cross.
        plain = col_schema.with_properties({})
        return with_codes(plain, self.num_buckets + FIRST_BUCKET, hash_buckets=self.num_buckets)
