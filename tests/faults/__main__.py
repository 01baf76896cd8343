"The scoreboard from the command line: `python tests/faults [--quick] [--kind WORD] [--tries N] [--out FILE]`."
import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pandas as pd
from faults.board import try_all
from faults.kinds import KINDS

parser = argparse.ArgumentParser(description="Try faults of every kind, and count what survives.")
parser.add_argument("--quick", action="store_true", help="a part of the tries: under two minutes")
parser.add_argument("--kind", default="", help="only kinds whose name holds this word; their rows are replaced")
parser.add_argument("--tries", type=int, help="so many tries of each kind")
parser.add_argument("--jobs", type=int, default=1, help="processes")
parser.add_argument("--out", type=Path, help="CSV file to write; of the full run results/faults.csv by default")
options = parser.parse_args()

chosen = [kind for kind in KINDS if options.kind in kind.name]
if options.tries is not None:
    from dataclasses import replace
    chosen = [replace(kind, tries=options.tries, quick=options.tries) for kind in chosen]
table, complaints = try_all(chosen, options.quick, options.jobs)
print(table.drop(columns="survives").to_string(index=False))
print(f"{table.survived.sum()} of {table.tries.sum()} tries survived")
out = options.out
if out is None and not options.quick and not options.kind and options.tries is None:
    out = Path(__file__).resolve().parents[2] / "results" / "faults.csv"
if out is not None:
    if options.kind and out.exists():  # rows of the other kinds stay
        before = pd.read_csv(out)
        table = pd.concat([before[~before.kind.isin(table.kind)], table])
        order = {kind.name: place for place, kind in enumerate(KINDS)}
        table = table.sort_values("kind", key=lambda names: names.map(order))
    table.to_csv(out, index=False, lineterminator="\n")
    print(f"Written: {out}")
sys.exit(1 if complaints else 0)
