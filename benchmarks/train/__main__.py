"""The speed of training: ours beside stock Merlin, plain PyTorch, and the dense layers alone.

    python -m benchmarks.train                          # everything, at 1M and 10M table rows
    python -m benchmarks.train --only dlrm --rows 1000000 --rounds 5
    python -m benchmarks.train --quick                  # a few steps of each, to see that it works

Sections: ``dlrm``, ``sessions``, ``loader``, ``systems``. In every section the ways to do the same
thing take turns, ``--rounds`` times, those of ``dlrm`` in processes of their own; the table gives
the best and the median rate, and ours divided by each, from the best rates and as the median of the
rounds.
"""

import argparse
import importlib
import json
import os
import warnings
from pathlib import Path
from typing import Any

SECTIONS = ("dlrm", "sessions", "loader", "systems")
QUICK = {"rounds": 1, "steps": 8, "systems_steps": 2, "loader_rows": 100_000, "rows": [1_000_000]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--batch", type=int, default=4096, help="of the DLRM ways and the loaders")
    parser.add_argument("--steps", type=int, default=100, help="of each way in each round")
    parser.add_argument("--systems-steps", type=int, default=20)
    parser.add_argument("--loader-rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--bf16", action="store_true", help="also where the CPU has to emulate it")
    parser.add_argument("--quick", action="store_true", help="few steps, one round, 1M rows")
    parser.add_argument("--folder", type=Path, default=Path("data/benchmarks/train"))
    parser.add_argument("--json", type=Path, help="to write (default: in the folder)")
    options = parser.parse_args()
    if options.quick:
        vars(options).update(QUICK)
    found = measure(options)
    output = options.json or options.folder / "results.json"
    output.write_text(json.dumps(found, indent=2) + "\n")
    print(f"wrote {output}")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Runs the sections asked for."""
    from core import console

    # Before torch itself, whose first import warns otherwise.
    importlib.import_module("core.merlin")
    import torch

    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    options.folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {
        "threads": options.threads,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "load_before": os.getloadavg()[0],
    }
    for section in options.only:
        console.say(f"{section}:")
        if section == "dlrm":
            from benchmarks.train import dlrm

            found[section] = [dlrm.run(options, rows) for rows in options.rows]
        elif section == "sessions":
            from benchmarks.train import sessions

            found[section] = sessions.run(options)
        elif section == "loader":
            from benchmarks.train import loader

            found[section] = loader.run(options)
        else:
            from benchmarks.train import systems

            found[section] = systems.run(options)
    found["load_after"] = os.getloadavg()[0]
    return found


if __name__ == "__main__":
    main()
