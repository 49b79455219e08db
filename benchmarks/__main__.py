"""Run the benchmarks one after another: ``python -m benchmarks [--data FOLDER]``.

Each is a process of its own, with one thread, so that memory and settings do not carry over.
Those that need the reference data run only where its folder is given.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

#: name -> whether it needs the reference data; settings' experiments are run by hand
BENCHMARKS = {
    "mixture_fit": False,
    "scoring": False,
    "step_time": False,
    "compiled": False,
    "encode": False,
    "intervals": False,
    "interval_coverage": False,
    "check_rates": False,
    "conditionals": False,
    "false_discoveries": False,
    "events": False,
    "flow_speed": False,
    "vae_speed": False,
    "vae_annealing": False,
    "flow_density": True,
    "conditional_density": True,
    "known_density": True,
    "binary_density": True,
    "imputation": True,
    "vae_tables": True,
    "mnist": True,
    "adbench": True,
    "structure_learning": True,
    "structure_continuous": True,
    "structure_speed": True,
    "compare": True,
    "network_inference": True,
    "network_fits": True,
}


def main() -> int:
    """Exit status 1 if any benchmark failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="folder of the reference data")
    parser.add_argument("--only", nargs="*", default=list(BENCHMARKS), choices=BENCHMARKS)
    arguments = parser.parse_args()
    here = Path(__file__).parent
    environment = {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": str(here.parent)}
    failed = []
    for name in arguments.only:
        if BENCHMARKS[name] and not arguments.data:
            print(f"== {name}: skipped, needs --data", flush=True)
            continue
        print(f"== {name}", flush=True)
        extra = ["--data", arguments.data] if BENCHMARKS[name] else []
        command = [sys.executable, "-W", "ignore", str(here / f"{name}.py"), *extra]
        if subprocess.run(command, env=environment, check=False).returncode:
            failed.append(name)
    if failed:
        print("failed:", *failed)
    return int(bool(failed))


if __name__ == "__main__":
    raise SystemExit(main())
