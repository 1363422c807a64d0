"""What the server loads that Dask's worker processes are forked from: it and they print nothing.

What fails in a worker is raised in the process that started it.
"""

import os

from core import streams
from core.failures import DEBUG

if not os.environ.get(DEBUG):
    streams.silence()
