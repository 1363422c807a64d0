"""What a stage imports before it begins: heavy libraries wait until something needs them."""

import subprocess
import sys

CHECK = """
import sys, pipeline.stages.ingest
print(*sorted({"polars", "torch", "numba"} & {*sys.modules}))
"""


def test_ingest_begins_without_libraries_that_few_logs_need():
    shown = subprocess.run(
        [sys.executable, "-c", CHECK], capture_output=True, text=True, check=True
    )
    assert shown.stdout.split() == []


DAMAGED = """
import sys
from core.errors import UserError
from core.parquet import read_frame, read_table
for read in (read_table, read_frame):
    try:
        read(sys.argv[1])
    except UserError as error:
        print(error)
"""


def test_a_damaged_file_is_one_error_whether_polars_is_there_or_not(tmp_path):
    path = tmp_path / "part.parquet"
    path.write_bytes(b"PAR1 and then something else PAR1")
    shown = subprocess.run(
        [sys.executable, "-c", DAMAGED, str(path)], capture_output=True, text=True, check=True
    )
    assert shown.stdout.count(f"{path}: not a whole Parquet file") == 2
