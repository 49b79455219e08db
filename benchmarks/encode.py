"""Time and peak memory of inferring, encoding and decoding a mixed table.

    python benchmarks/encode.py [--rows 1000000]

Prints seconds for each step, and how far the process grew while encoding, beside the size of
the encoded table (x and seen). Target: a few seconds; growth at most the encoded table and one
copy of it.
"""

from __future__ import annotations

import argparse
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from probgen.schema import Schema
from probgen.table import decode, encode

MB = 1e6


def mixed(n: int, seed: int = 0) -> pd.DataFrame:
    """A table of n rows: ten text columns, of 3 to 3000 levels, and ten others."""
    rng = np.random.default_rng(seed)
    data: dict[str, Any] = {}
    for place, levels in enumerate([3, 3, 5, 5, 10, 20, 50, 100, 900, 3000]):
        words = np.array([f"level {i}" for i in range(levels)], dtype=object)
        data[f"text{place}"] = pd.Series(words[rng.integers(0, levels, n)], dtype="str")
    data["text9"] = data["text9"].mask(rng.random(n) < 0.05)
    data |= {f"real{i}": rng.normal(size=n) for i in range(3)}
    data["rounded"] = np.round(rng.normal(40, 5, n), 1)
    data["positive"] = rng.lognormal(size=n)
    data["spike"] = np.where(rng.random(n) < 0.3, 0.0, rng.lognormal(size=n))
    data["holes"] = np.where(rng.random(n) < 0.2, np.nan, rng.normal(size=n))
    data["count"] = rng.poisson(6, n)
    data["flag"] = rng.random(n) < 0.4
    data["day"] = pd.Timestamp("2020") + pd.to_timedelta(rng.integers(0, 3000, n), unit="D")
    return pd.DataFrame(data)


def resident() -> float:
    """Memory of this process in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096.0


def measured(step: Callable[[], Any]) -> tuple[Any, float, float]:
    """Result of a step, its seconds, and the growth of memory at its peak, in bytes."""
    before, peak, done = resident(), [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            peak[0] = max(peak[0], resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    result = step()
    seconds = time.perf_counter() - start
    done.set()
    watcher.join()
    return result, seconds, max(peak[0], resident()) - before


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    warnings.simplefilter("ignore")
    table = mixed(rows)
    encode(table[:100], Schema.infer(table[:1000]), unseen="rare")  # imports
    schema, seconds, grown = measured(lambda: Schema.infer(table))
    print(f"{rows:,} rows x {table.shape[1]} columns, {len(schema.slots)} slots")
    print(f"infer   {seconds:6.2f} s   grew {grown / MB:7.0f} MB")
    encoded, seconds, grown = measured(lambda: encode(table, schema))
    size = encoded.x.nbytes + encoded.seen.nbytes
    print(
        f"encode  {seconds:6.2f} s   grew {grown / MB:7.0f} MB   encoded {size / MB:.0f} MB, "
        f"ratio {grown / size:.2f} (target: at most 2)"
    )
    _, seconds, grown = measured(lambda: decode(encoded.x, schema, seen=encoded.seen))
    print(f"decode  {seconds:6.2f} s   grew {grown / MB:7.0f} MB")


if __name__ == "__main__":
    main()
