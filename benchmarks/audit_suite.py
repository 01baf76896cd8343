"""Audits the adversaries of `tests/audit/adversaries.py` and writes `results/audit_suite.csv`.

    python benchmarks/audit_suite.py            # all, 2,000 samples each, about ten minutes
    python benchmarks/audit_suite.py --n 300    # fewer samples, printed only
"""
import argparse
import sys
import warnings
from pathlib import Path

import pandas as pd
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "audit")]
from adversaries import ADVERSARIES, check, limit  # noqa: E402

COLUMNS = ["name", "kind", "verdict", "truth", "flips", "certified", "wrong", "n", "on_boundary", "passes"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=2000, help="samples of each adversary; the table is written for 2000 only")
    parser.add_argument("--only", default="", help="part of a name or of a kind")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    rows = []
    for adversary in ADVERSARIES:
        if options.only not in f"{adversary.name} {adversary.kind}":
            continue
        row, report = check(adversary, options.n)
        rows.append(row)
        print(f"{row['name']:32} {row['verdict']:10} truth {row['truth']:7} {row['flips']:7.2%}  certified {row['certified']:5}, "
              f"{row['wrong']} wrong; {row['passes']:5.1f} passes  {row['why'][:150] if row['verdict'] == 'undecided' else ''}", flush=True)
    table = pd.DataFrame(rows)
    for kind, part in [*table.groupby("kind", sort=False), ("all", table)]:
        print(f"{kind:18} {part.certified.sum():6} certified, {part.wrong.sum()} wrong, at most {limit(part.wrong.sum(), part.certified.sum()):.2%}")
    if options.n == 2000 and not options.only:
        table[COLUMNS].to_csv(ROOT / "results" / "audit_suite.csv", index=False, float_format="%.6g")


if __name__ == "__main__":
    main()
