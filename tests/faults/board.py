"The scoreboard: a kind of fault is tried in a process of its own, and what became of every try is counted."
import json
import os
import random
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd


class SilentlyWrong(AssertionError):
    "A result is not what it should be, and nothing was said."


class BytesLost(AssertionError):
    "Files of the user are gone, or not what they were."

    def __init__(self, n, what):
        super().__init__(f"{what}: {n} bytes lost")
        self.n = n


@dataclass(frozen=True)
class Kind:
    "A kind of fault."
    name: str             # in the table
    survives: str         # what has to be true after a try
    tries: int            # of the full run
    quick: int            # of the quick run
    attempt: Callable     # (scene, rng, i, folder): one try; returns "right" or "refused", raises anything else
    prepare: Callable = None  # (folder): what all tries start from, the scene; `None` by default
    limit: float = 120.   # seconds of a try after which it hangs


COLUMNS = ["kind", "survives", "tries", "survived", "refused", "silent_wrong", "hangs", "tracebacks", "bytes_lost"]


# What a try uses

def refused(call, *names, by=(ValueError,)):
    """What `call` returns, and "right"; or the message with which it refuses, and "refused".

    A refusal is an exception of the kinds `by`; with `names`, its message holds one of them. Anything else is raised.
    """
    try:
        return call(), "right"
    except by as error:
        message = str(error)
        if names and not any(str(name) in message for name in names):
            raise AssertionError(f"the refusal names none of {names}: {type(error).__name__}: {message}") from error
        return message, "refused"


def contents(folder, but=()):
    "Bytes of all files below `folder`, by name; links as what they name."
    found = {}
    for path in sorted(Path(folder).rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.name in but:
            continue
        if path.is_symlink():
            found[name] = os.readlink(path).encode()
        elif path.is_file():
            found[name] = path.read_bytes()
    return found


def check_kept(before, after):
    "Raise `BytesLost` unless all files of `before` are as they were."
    lost = {name: len(raw) for name, raw in before.items() if after.get(name) != raw}
    if lost:
        raise BytesLost(sum(lost.values()) or len(lost), ", ".join(lost))


def check_same(found, expected, what):
    "Raise `SilentlyWrong` unless both are equal."
    if found != expected:
        raise SilentlyWrong(what)


def start(act, log=None):
    "A process that calls `act`, its output in the file `log`; its exit status is that of the command line."
    pid = os.fork()
    if pid:
        return pid
    status = 70
    try:
        os.setpgid(0, 0)
        if log is not None:
            descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            sys.stdout = os.fdopen(1, "w", closefd=False)
            sys.stderr = os.fdopen(2, "w", closefd=False)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        act()
        status = 0
    except SystemExit as stopped:
        status = stopped.code if isinstance(stopped.code, int) else 1 if stopped.code else 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def end_of(pid):
    "Exit status of a process; of one that a signal has ended, the signal's number with a minus."
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def command(*words):
    "A function that runs the command line with these words."
    def act():
        from neuralode_resnet.cli.main import main
        sys.argv = ["neuralode-resnet", *map(str, words)]
        main()
    return act


def run_command(log, *words):
    "Exit status and output of the command line. Raises `AssertionError` where it ends in a traceback."
    status = end_of(start(command(*words), log))
    said = Path(log).read_text(errors="replace")
    if "Traceback" in said or status == 70 or status < 0:
        raise AssertionError(f"{' '.join(map(str, words))}: status {status}: {said[-1500:]}")
    return status, said


# How tries are made and counted

def _outcome(kind, scene, i, folder):
    "What became of one try: its fate, bytes lost, and what it said."
    try:
        fate = kind.attempt(scene, random.Random(f"{kind.name} {i}"), i, folder)
        assert fate in ("right", "refused"), f"a try ended with {fate!r}"
        return fate, 0, ""
    except SilentlyWrong as error:
        return "silent_wrong", 0, str(error)
    except BytesLost as error:
        return "bytes_lost", error.n, str(error)
    except Exception:
        return "tracebacks", 0, traceback.format_exc(limit=-6)


def _work(kind, first, tries, send):
    "Make the tries from `first` on, and say of each what became of it."
    with tempfile.TemporaryDirectory(prefix="faults-") as base:
        scene = kind.prepare(Path(base)) if kind.prepare else None
        send(None)
        for i in range(first, tries):
            folder = Path(base, f"try{i}")
            folder.mkdir()
            send([i, *_outcome(kind, scene, i, folder)])
            shutil.rmtree(folder, ignore_errors=True)


def _lines(kind, first, tries, log):
    "Outcomes of the tries from `first` on, as they come; one that stays away for too long is a hang, and the last."
    reading, writing = os.pipe()

    def work():
        os.close(reading)
        _work(kind, first, tries, lambda found: os.write(writing, json.dumps(found).encode() + b"\n"))

    pid = start(work, log)
    os.close(writing)
    buffer, reached = b"", first
    limit = 20 * kind.limit  # of the preparation
    try:
        while reached < tries:
            ready, _, _ = select.select([reading], [], [], limit)
            piece = os.read(reading, 65536) if ready else b""
            if not piece:
                fate = "tracebacks" if ready else "hangs"
                yield reached, fate, 0, Path(log).read_text(errors="replace")[-1500:]
                return
            *lines, buffer = (buffer + piece).split(b"\n")
            for line in lines:
                found = json.loads(line)
                limit = kind.limit
                if found is not None:
                    reached = found[0] + 1
                    yield tuple(found)
    finally:
        os.close(reading)
        for group in (os.killpg, os.kill):
            try:
                group(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        os.waitpid(pid, 0)


def try_kind(kind, quick=False, say=None):
    """The row of the table of one kind, a dictionary, and the complaints, one for every try that did not survive.

    `say` is called with the complaints as they come.
    """
    tries = kind.quick if quick else kind.tries
    fates, lost, complaints = Counter(), 0, []
    reached = 0
    with tempfile.NamedTemporaryFile(prefix="faults-", suffix=".log") as log:
        while reached < tries:
            for i, fate, n, said in _lines(kind, reached, tries, log.name):
                fates[fate] += 1
                lost += n
                reached = i + 1
                if fate not in ("right", "refused"):
                    complaints.append(f"{kind.name}, try {i}: {fate}: {said}")
                    if say:
                        say(complaints[-1])
    bad = {name: fates[name] for name in ("silent_wrong", "hangs", "tracebacks")}
    survived = fates["right"] + fates["refused"]
    row = {"kind": kind.name, "survives": kind.survives, "tries": tries, "survived": survived,
           "refused": fates["refused"], **bad, "bytes_lost": lost}
    return row, complaints


def _try_some(kinds, quick, file):
    "Try these kinds, say how each went, and leave rows and complaints in a file."
    found = []
    for kind in kinds:
        begun = time.monotonic()
        row, complaints = try_kind(kind, quick, lambda text: print(text, file=sys.stderr, flush=True))
        found.append([row, complaints])
        spent = time.monotonic() - begun
        print(f"{row['survived']:4d} of {row['tries']:4d}  {kind.name} ({spent:.0f} s)", flush=True)
    file.write_text(json.dumps(found))


def try_all(kinds, quick=False, jobs=1):
    "The table of all kinds, in their order, and the complaints; `jobs` processes take every so-manieth kind."
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        files = [Path(folder, f"{job}.json") for job in range(jobs)]
        pids = [start(lambda: _try_some(kinds[job::jobs], quick, file)) for job, file in enumerate(files)]
        try:
            for pid in pids:
                assert end_of(pid) == 0, "a process of the scoreboard itself has failed"
        except BaseException:
            for pid in pids:
                try:
                    os.killpg(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            raise
        found = [pair for file in files for pair in json.loads(file.read_text())]
    order = {kind.name: place for place, kind in enumerate(kinds)}
    found.sort(key=lambda pair: order[pair[0]["kind"]])
    complaints = [complaint for _, some in found for complaint in some]
    return pd.DataFrame([row for row, _ in found], columns=COLUMNS), complaints
