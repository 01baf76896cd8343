"Solvers exchanged in several threads and contexts, in any order."
import contextvars
import queue
import threading

import torch
import torchdiffeq

from neuralode_resnet.audit import torchdiffeq_solver
from neuralode_resnet.audit.torchdiffeq_swap import solver_table
from neuralode_resnet.models import NeuralODE
from neuralode_resnet.solver_swap import swapped

from .board import Kind, SilentlyWrong, check_same
from .native import Shape

SOLVERS = ["euler@1/4", "midpoint@1/8", "rk4@1/3", "heun@1/5"]
STEPS = [1 / 4, 1 / 8, 1 / 3, 1 / 5]


class Worker:
    "A thread, or a context of the main one, that does what it is given, one thing after the other."

    def __init__(self, is_thread):
        self.is_thread = is_thread
        self.context = contextvars.copy_context()
        self.open = []
        if is_thread:
            self.calls, self.found = queue.Queue(), queue.Queue()
            threading.Thread(target=self.work, daemon=True).start()

    def work(self):
        while (call := self.calls.get()) is not None:
            try:
                self.found.put((call(), None))
            except BaseException as error:
                self.found.put((None, error))

    def __call__(self, call):
        "What `call` returns there."
        if not self.is_thread:
            return self.context.run(call)
        self.calls.put(call)
        value, error = self.found.get(timeout=30)
        if error is not None:
            raise error
        return value

    def end(self):
        if self.is_thread:
            self.calls.put(None)


def field(t, z):
    return -z * t


def steps_taken():
    "Evaluations that one solve of torchdiffeq costs here, and those of a solve without any exchange."
    count = []

    def counted(t, z):
        count.append(1)
        return field(t, z)
    torchdiffeq.odeint(counted, torch.ones(2), torch.tensor([0., 1.]), method="euler", options={"step_size": 1.})
    return len(count)


def _exchanged(make, look, own):
    "Blocks are entered and left by threads at random; each sees its own; afterwards all is as before."
    def attempt(scene, rng, i, folder):
        model = NeuralODE.for_data(Shape, "euler@1/2", channels=4)
        before = dict(solver_table(torchdiffeq))
        workers = [Worker(rng.random() < .8) for _ in range(rng.randint(2, 4))]
        everything = []
        for _ in range(rng.randint(4, 20)):
            worker = rng.choice(workers)
            act = rng.random()
            if act < .5 and len(worker.open) < 3:
                n = rng.randrange(len(SOLVERS))
                block = make(model, n)
                worker(block.__enter__)
                worker.open.append((block, n))
                everything.append((worker, block, n))
            elif act < .8 and worker.open:
                block, n = worker.open.pop(rng.randrange(len(worker.open)))
                closer = worker if rng.random() < .6 else rng.choice(workers)
                closer(lambda: block.__exit__(None, None, None))
            elif worker.is_thread and worker.open:
                check_same(worker(lambda: look(model)), own(worker.open[-1][1]), "a thread has not the solver that it set")
        rng.shuffle(everything)
        for worker, block, n in everything:
            if (block, n) in worker.open:
                worker.open.remove((block, n))
                rng.choice(workers)(lambda: block.__exit__(None, None, None))
        for worker in workers:
            check_same(worker(lambda: look(model)), own(None), "a solver has stayed")
            worker.end()
        check_same(str(model.block.solver), "euler@1/2", "a solver has stayed on the model")
        after = solver_table(torchdiffeq)
        if any(after[name] is not before[name] for name in before):
            raise SilentlyWrong("the table of torchdiffeq has stayed another one")
        return "right"
    return attempt


def _swap(model, n):
    return swapped(model, SOLVERS[n])


def _swap_table(model, n):
    return torchdiffeq_solver("euler", step_size=STEPS[n])


KINDS = [
    Kind("swapped in several threads", "each thread has its solver, and the model its own afterwards", 150, 25,
         _exchanged(_swap, lambda model: str(model.block.solver), lambda n: "euler@1/2" if n is None else SOLVERS[n])),
    Kind("torchdiffeq_solver in several threads and contexts", "each has its solver, and torchdiffeq its own afterwards", 150, 25,
         _exchanged(_swap_table, lambda model: steps_taken(), lambda n: 1 if n is None else round(1 / STEPS[n]))),
]
