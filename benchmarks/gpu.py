"""Is a GPU's answer the CPU's, and how fast is it? One call of under eight minutes.

    python -m benchmarks.gpu                              # on a machine with an NVIDIA GPU
    python -m benchmarks.gpu --device cpu --rows small    # the same parts, tiny, without one

Each part has a process and a share of the time of its own; one that fails or takes too long is
reported, and the others go on. What was found stands in the JSON file after every part:

- ``features``: raw Criteo text → raw Parquet on the CPU's cores → features on the GPU; generated
  rows, all values in the vocabulary, at most 10 million codes a column;
- ``dlrm-kaggle``, ``dlrm-1tb``: DLRM's nets for Criteo Kaggle (26 tables of 34 million rows × 16)
  and 1TB (49 million rows × 64), random ids, bf16, SGD, batch 65,536;
- ``loader``: rows that the loader hands out on the GPU, shuffled;
- ``sessions``: XLNet and SASRec, two layers of 64;
- ``equality``: the tests marked ``gpu``.

How busy the GPU was and how much of its memory was taken are NVML's samples, 20 a second.
"""

import argparse
import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu_parts import PARTS, SIZES
from core.console import say, table

SECONDS = {
    "features": 130,
    "dlrm-kaggle": 80,
    "dlrm-1tb": 90,
    "loader": 40,
    "sessions": 60,
    "equality": 150,
}
"""What a part may take, at most."""
GOALS = {
    ("features", "text → features, rows/s"): 5.3e6,
    ("dlrm-kaggle", "bf16, samples/s"): 4.0e6,
    ("dlrm-1tb", "bf16, samples/s"): 4.0e6,
}
"""NVIDIA's figures for one A100: NVTabular's preprocessing of Criteo 1TB, and DLRM's training with
mixed precision (DeepLearningExamples)."""


def measure(name: str, options: dict[str, str], seconds: float) -> dict[str, Any]:
    """Runs a part; ``{"fault": …}`` where it gave nothing."""
    output = Path(options["work"]) / f"{name}.json"
    output.unlink(missing_ok=True)
    command = [sys.executable, "-m", "benchmarks.gpu_parts", name, json.dumps(options), output]
    began = time.monotonic()
    # A group of its own: what a part starts ends with it.
    process = subprocess.Popen(command, start_new_session=True)
    try:
        code = process.wait(timeout=max(1.0, seconds))
        fault = f"ended with code {code}; its messages stand above" if code else None
    except subprocess.TimeoutExpired:
        fault = f"took more than {seconds:.0f} s"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    found = json.loads(output.read_text()) if not fault and output.exists() else {}
    fault = fault or (None if found else "gave no figures")
    return {**found, **({"fault": fault} if fault else {}), "seconds": time.monotonic() - began}


def machine(device: str) -> dict[str, Any]:
    """What it was measured on."""
    found: dict[str, Any] = {"device": device, "cores": os.cpu_count(), "cpu": platform.processor()}
    if device == "cuda":
        import pynvml

        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        found["gpu"] = pynvml.nvmlDeviceGetName(handle)
        found["driver"] = pynvml.nvmlSystemGetDriverVersion()
        found["gpu bytes"] = pynvml.nvmlDeviceGetMemoryInfo(handle).total
        pynvml.nvmlShutdown()
    return found


def shown(name: str, value: Any) -> str:
    """A figure as a person reads it."""
    if name.endswith("bytes"):
        return f"{value / 2**30:.1f} GiB"
    if name.endswith("busy"):
        return f"{value:.0%}"
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def report(parts: dict[str, dict[str, Any]], goals: dict[tuple[str, str], float]) -> None:
    """Prints all figures, those with a goal beside it."""
    rows = []
    for part, found in parts.items():
        for name, value in found.items():
            goal = goals.get((part, name))
            beside = f"{goal:,.0f}: {'reached' if value >= goal else 'not reached'}" if goal else ""
            if not isinstance(value, list) or (part == "equality" and value):
                rows.append([part, name, shown(name, value), beside])
    table("GPU", ["part", "figure", "value", "goal"], rows)


def main(arguments: list[str] | None = None) -> int:
    """Runs the parts; 1 where one of them failed or a test of equality did."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--rows", choices=list(SIZES), default="full")
    parser.add_argument("--only", nargs="*", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--seconds", type=float, default=465, help="for all parts together")
    parser.add_argument("--json", type=Path, default=Path("gpu.json"))
    parser.add_argument("--work", type=Path, help="folder for logs, features and models")
    options = parser.parse_args(arguments)
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        work = options.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        work.mkdir(parents=True, exist_ok=True)
        given = {"device": options.device, "rows": options.rows, "work": str(work.resolve())}
        found: dict[str, Any] = {"machine": machine(options.device), "parts": {}}
        for name in options.only:
            left = options.seconds - (time.monotonic() - began)
            say(f"{name}: at most {min(left, SECONDS[name]):.0f} s")
            found["parts"][name] = (
                measure(name, given, min(left, SECONDS[name]))
                if left > 5
                else {"fault": "no time was left"}
            )
            options.json.write_text(json.dumps(found, indent=2), encoding="utf-8")
    report(found["parts"], GOALS if options.device == "cuda" and options.rows == "full" else {})
    say(f"{time.monotonic() - began:.0f} s in all → {options.json}")
    return int(any("fault" in part or part.get("failed") for part in found["parts"].values()))


if __name__ == "__main__":
    sys.exit(main())
