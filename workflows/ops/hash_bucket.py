"""NVTabular's HashBucket with ids that carry over between machines and codes like all others."""

import numpy as np

from core import frames
from core.merlin import ops
from workflows.ops.codes import FIRST_BUCKET, NULL, with_codes
from workflows.ops.stable_hash import hash_column


class HashBucket(ops.HashBucket):
    """Codes by hashing, for values too many or too short-lived for a vocabulary.

    A drop-in for ``nvtabular.ops.HashBucket`` (Weinberger et al. 2009) that differs in this:

    - The hash is the same for pandas and cuDF, and for integers with and without nulls among them.
    - Missing values keep the code 1 that they have everywhere, rather than share a bucket; codes
      are 3 … ``num_buckets`` + 2 (int32), so a code of 0 is padding here too.
    - The schema's domain ends at the last code, where NVTabular's ends one beyond it.
    """

    def transform(self, col_selector, df):
        columns = {}
        for name in col_selector.names:
            hashed, missing = hash_column(df[name])
            codes = (hashed % np.uint64(self.buckets(name))).astype(self.output_dtype)
            codes += FIRST_BUCKET
            codes[missing] = NULL
            columns[name] = codes
        return frames.frame_of(df, columns)

    def buckets(self, name: str) -> int:
        """Buckets of one column."""
        return self.num_buckets[name] if isinstance(self.num_buckets, dict) else self.num_buckets

    def get_embedding_sizes(self, columns):
        sizes = {name: self.buckets(name) + FIRST_BUCKET for name in columns}
        return {name: (size, min(16, round(1.6 * size**0.56))) for name, size in sizes.items()}

    def _compute_properties(self, col_schema, input_schema):
        buckets = self.buckets(col_schema.name)
        return with_codes(col_schema, buckets + FIRST_BUCKET, hash_buckets=buckets)
