"""Interleaved timings, the machine's own matmul peak, and what a reader needs to know about the machine."""
import platform
import statistics
import time
from pathlib import Path

import torch


def seconds(call, clock=time.perf_counter):
    "Time of one call; wall time, unless `clock` is another one."
    start = clock()
    call()
    return clock() - start


def in_turns(calls, # functions without arguments
             rounds, # turns of each
             clock=time.perf_counter, # by which they are timed
             turn=0.): # seconds that a turn lasts; at least one call is timed in each
    "For each call its times in seconds, taken in turns: A B C A B C …, or, where turns last, A A A B B B C C C A A A …"
    times = [[] for _ in calls]
    for _ in range(rounds):
        for call, own in zip(calls, times):
            call()  # not timed: brings caches and thread pools back from the candidate before
            begin = time.perf_counter()
            own.append(seconds(call, clock))
            while time.perf_counter() - begin < turn:
                own.append(seconds(call, clock))
    return times


def interleaved(calls, # functions without arguments
                rounds, # timings of each
                clock=time.perf_counter): # by which they are timed
    "Quartiles (lower, median, upper) of each call's time in seconds, taken in turns."
    times = in_turns(calls, rounds, clock)
    return [statistics.quantiles(own, n=4, method="inclusive") for own in times]


def matmul_peak(sizes=(256, 512, 1024, 2048), repeats=8):
    "Operations per second of the fastest float32 `torch.mm`, with torch's threads."
    best = 0.
    for n in sizes:
        a, b, out = torch.randn(n, n), torch.randn(n, n), torch.empty(n, n)
        fastest = min(seconds(lambda: torch.mm(a, b, out=out)) for _ in range(repeats))
        best = max(best, 2 * n**3 / fastest)
    return best


def processor_name():
    "As the operating system calls it; `platform` does not know it on Linux."
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
