"""Runs notebooks, each in a process to itself, so that neither global state nor a crash reaches the next one.

Importing torch and its like takes seconds, and every notebook needs them. A server imports them once and forks for each
notebook. What a notebook may take is counted in processor time, which other work on the machine does not change.
"""
import ast
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from _pytest.assertion.rewrite import AssertionRewriter

PRELOADED = ["nbdev.test", "torch", "torchdiffeq", "numpy", "pandas", "scipy.integrate", "scipy.optimize", "scipy.stats", "seaborn",
             "matplotlib.pyplot", "shapely", "typer", "tqdm.auto", "joblib"]
FORKS = sys.platform == "linux"  # elsewhere system libraries do not survive a fork: there every notebook gets a new server
LATER = 5  # seconds of processor time from the signal that can be seen in the message to the one that ends the process


# Assertions that show values

class ShowsValues(AssertionRewriter):
    "pytest's rewriting, which also says what a sum or a product is: `assert 1 + 1 == 3` fails with 2 == 3."
    def visit_BinOp(self, node):
        value, parts = super().visit_BinOp(node)
        shown = self.explanation_param(self.display(value))
        return value, f"{shown}\n{{{shown} = {parts}\n}}"


class AssertionTransformer(ast.NodeTransformer):
    "For the list `ast_transformers` of an IPython shell."
    def visit_Module(self, module):
        ShowsValues(None, None, b"").run(module)
        for node in ast.walk(module):  # what the rewriting adds says where it starts only
            if hasattr(node, "lineno") and getattr(node, "end_lineno", None) is None:
                node.end_lineno, node.end_col_offset = node.lineno, node.col_offset
        return ast.fix_missing_locations(module)


# One notebook

def run_here(
    notebook: Path,
    root: Path,         # of the project, where imports start
    skip: list[str],    # flags of cells that are left out
) -> bool:  # whether all went well; a traceback is on stderr otherwise
    import nbdev.test

    class Shell(nbdev.test.CaptureShell):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.ast_transformers.append(AssertionTransformer())

    nbdev.test.CaptureShell = Shell
    passed, _ = nbdev.test.test_nb(notebook, skip_flags=skip, basepath=root)
    return passed


# The server

def serve():
    "Reads a line of JSON per notebook from stdin, and answers with one."
    import importlib
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever prints has no answer to spoil
    for name in PRELOADED:
        importlib.import_module(name)
    import torch
    torch.set_num_threads(1)
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            _become(request)
        code, used = _wait(child, request["wall"])
        answers.write(json.dumps({"code": code, "seconds": used.ru_utime + used.ru_stime}) + "\n")
        answers.flush()


def _become(request):
    "The rest of the life of the child: a notebook, its output in a file, its time limited."
    code = 1
    try:
        os.setsid()
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream, target in [(os.open(os.devnull, os.O_RDONLY), 0), (log, 1), (log, 2)]:
            os.dup2(stream, target)
        if request["cpu"]:
            resource.setrlimit(resource.RLIMIT_CPU, (request["cpu"], request["cpu"] + LATER))
            signal.signal(signal.SIGXCPU, signal.default_int_handler)  # a traceback says where it was
        passed = run_here(Path(request["notebook"]), request["root"], request["skip"])
        sys.stdout.flush()
        sys.stderr.flush()
        code = int(not passed)
    finally:
        os._exit(code)


def _wait(child, seconds):
    "The exit status and the resources used; a child that is still there after `seconds` is killed with all that it started."
    end = time.monotonic() + seconds if seconds else float("inf")
    while True:
        found, status, used = os.wait4(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status), used
        if time.monotonic() > end:
            os.killpg(child, signal.SIGKILL)
            _, _, used = os.wait4(child, 0)
            return None, used
        time.sleep(0.02)


# The client

@dataclass
class Done:
    "What became of a notebook."
    code: int | None  # 0: all went well; None: it was stopped
    output: str       # what it printed, with the traceback of the cell that failed
    seconds: float    # processor time, of subprocesses as well


class Runner:
    "Runs notebooks one after the other; `close` it in the end."
    def __init__(
        self,
        root: Path,  # of the project
    ):
        self.root, self.server = Path(root), None

    def start(self):
        here = str(Path(__file__).resolve().parent)
        # neither this process nor joblib's children import a `__main__` again
        code = f"import sys; sys.path.insert(0, {here!r}); from notebook_runner import serve; sys.path.pop(0); serve()"
        threads = dict.fromkeys(["OMP_NUM_THREADS", "MKL_NUM_THREADS"], "1")
        self.server = subprocess.Popen([sys.executable, "-c", code], cwd=self.root, env={**os.environ, **threads, "MPLBACKEND": "Agg"},
                                       stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(
        self,
        notebook: Path,
        skip=(),    # flags of cells that are left out
        cpu=None,   # seconds of processor time that it may take
        wall=None,  # seconds that it may take on a busy machine: only this ends a notebook that waits for ever
    ) -> Done:
        if self.server is None or self.server.poll() is not None:
            self.start()
        with tempfile.NamedTemporaryFile(suffix=".log") as log:
            request = dict(notebook=str(notebook), root=str(self.root), skip=list(skip), cpu=cpu, wall=wall, log=log.name)
            self.server.stdin.write(json.dumps(request) + "\n")
            self.server.stdin.flush()
            answer = self.server.stdout.readline()
            output = Path(log.name).read_text(encoding="utf-8", errors="replace")
        if not answer:
            raise RuntimeError("the server of notebooks has ended, see its messages above")
        done = Done(output=output, **json.loads(answer))
        if done.code is None:
            done.output += f"\nstopped after {wall} s"
        elif cpu and done.seconds >= cpu:
            done.output += f"\nstopped: it took {done.seconds:.0f} s of processor time, allowed {cpu}"
        elif done.code < 0:
            done.output += f"\nended by {signal.Signals(-done.code).name}"
        if not FORKS:
            self.close()
        return done

    def close(self):
        if self.server is not None:
            self.server.stdin.close()
            self.server.wait()
            self.server.stdout.close()
            self.server = None
