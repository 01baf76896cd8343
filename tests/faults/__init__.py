"""What can happen to files, calls and processes of this package, tried many times, and counted.

`python tests/faults` tries everything and writes `results/faults.csv`; `--quick` tries a part of it, as the tests do.
Kinds of faults are data: a `Kind` in the list `KINDS` of a module of this folder.
"""
