"""One training iteration (forward and backward) of the image classifier: ours beside torchdiffeq with the same field.

conv2d field on 3 × 32 × 32 images, linear head, cross-entropy, Euler with a fixed number of steps; in fp32 and, where the
hardware has them, in tf32 and bf16, and compiled. Everything runs on a CPU and on a GPU. Before anything is timed, loss and
gradient of each candidate are compared with those of the first one, within what its precision permits.
"""
import argparse
import os
import time

import pandas as pd
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torchdiffeq import odeint

import timing
from neuralode_resnet.datasets import Data
from neuralode_resnet.models import NeuralODE, PRECISIONS, check_precision, compile_field
from training_iteration import ORIGINAL, OURS, difference, machine_facts, markdown, number

STATE, CLASSES = (3, 32, 32), 10
RTOL = {"fp32": 1e-3, "tf32": 1e-2, "bf16": 1e-1}  # of loss and gradient, against torchdiffeq in fp32
#: Dense operations per second from the data sheets of NVIDIA, in 10¹²: a fraction of these is what a reader may compare.
DATASHEET = {"H200": dict(fp32=67, tf32=495, bf16=989), "H100": dict(fp32=67, tf32=495, bf16=989),
             "A100": dict(fp32=19.5, tf32=156, bf16=312)}


# --- candidates -----------------------------------------------------------------------------------------------------

def random_images(n, device):
    "Noise with labels: the time of an iteration does not depend on what is in the images."
    draw = torch.Generator().manual_seed(0)
    x, y = torch.rand(n, *STATE, generator=draw), torch.randint(0, CLASSES, (n,), generator=draw)
    return Data("noise", x, y, x, y, CLASSES).to(device)


def iteration(logits_of, parameters, y, device):
    "A function that returns loss and gradients, when the device has finished."
    def run():
        loss = cross_entropy(logits_of(), y)
        gradients = torch.autograd.grad(loss, parameters)
        if device.type == "cuda": torch.cuda.synchronize(device)
        return loss.detach(), gradients
    return run


def ours(data, arguments, precision="fp32", compiled=False, gradient="backprop"):
    "A dictionary that describes one candidate, or `None` where the field does not compile."
    model = NeuralODE.for_data(data, f"euler@1/{arguments.steps}", arguments.channels, gradient,
                               precision=precision).to(arguments.device)
    x = data.x_train.contiguous(memory_format=torch.channels_last)  # as `as_states` lays out pixels
    if compiled and not compile_field(model, x): return None
    how = ", ".join([precision, *["compiled"] * compiled, *["recomputed (checkpoint)"] * (gradient != "backprop")])
    return dict(library=OURS, how=how, precision=precision,
                run=iteration(lambda: model(x), [*model.parameters()], data.y_train, arguments.device))


def original(data, arguments, channels_last):
    "torchdiffeq around the same field; with PyTorch's own layout of the weights, or with ours."
    model = NeuralODE.for_data(data, f"euler@1/{arguments.steps}", arguments.channels).to(arguments.device)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x, times = data.x_train.contiguous(memory_format=layout), torch.tensor([0., 1.], device=arguments.device)
    for module in model.modules():
        if isinstance(module, nn.Conv2d): module.weight.data = module.weight.data.contiguous(memory_format=layout)
    options = dict(method="euler", options=dict(step_size=1 / arguments.steps))
    return dict(library=ORIGINAL, how=f"fp32, channels {'last' if channels_last else 'first'}", precision="fp32",
                run=iteration(lambda: model.head(odeint(model.block.field, x, times, **options)[-1]),
                              [*model.parameters()], data.y_train, arguments.device))


def available(device):
    "The precisions that `device` has."
    def has(name):
        try: return bool(check_precision(name, device))
        except ValueError as error: print(f"Skipped: {error}")
    return [name for name in PRECISIONS if has(name)]


def candidates(data, arguments):
    found = [original(data, arguments, channels_last) for channels_last in (False, True)]
    for precision in available(arguments.device):
        found.append(ours(data, arguments, precision))
        if not arguments.no_compile: found.append(ours(data, arguments, precision, compiled=True))
    found.append(ours(data, arguments, gradient="checkpoint"))
    return [candidate for candidate in found if candidate]


# --- measurement ----------------------------------------------------------------------------------------------------

def check_equal_work(found):
    "Stop if one candidate computes another loss or gradient than the first."
    first_loss, first_gradients = found[0]["run"]()
    for candidate in found:
        loss, gradients = candidate["run"]()
        off = max(abs(loss / first_loss - 1).item(), difference(gradients, first_gradients))
        candidate["off"] = off
        if not off <= RTOL[candidate["precision"]]:
            raise SystemExit(f"{candidate['library']}, {candidate['how']} is off by {off:.1e}; nothing was timed")


def operations(arguments):
    "Of the products: forward, and twice as much backward."
    pixels, c = STATE[1] * STATE[2], arguments.channels
    return 3 * 2 * arguments.batch * pixels * (2 * STATE[0] * c + 9 * c * c) * arguments.steps


def peak_memory(run, device):
    "Bytes at the height of an iteration; known on a GPU only."
    if device.type != "cuda": return float("nan")
    torch.cuda.reset_peak_memory_stats(device)
    run()
    return torch.cuda.max_memory_allocated(device)


def datasheet_peak(precision, device):
    "Operations per second that the maker promises, where they are known."
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return next((1e12 * peaks[precision] for card, peaks in DATASHEET.items() if card in name), float("nan"))


def measure(found, arguments, rounds):
    "A row per candidate; ratios to the fastest way of torchdiffeq, and to the one that the paper's code took."
    rows, clock = [], time.process_time if arguments.cpu_time else time.perf_counter
    for candidate, (low, median, high) in zip(found, timing.interleaved([c["run"] for c in found], rounds, clock)):
        rate = operations(arguments) / median
        rows.append(dict(library=candidate["library"], how=candidate["how"], median_ms=1e3 * median, lower_quartile_ms=1e3 * low,
                         upper_quartile_ms=1e3 * high, images_per_s=arguments.batch / median, gflops=rate / 1e9,
                         of_datasheet=rate / datasheet_peak(candidate["precision"], arguments.device),
                         memory_gb=peak_memory(candidate["run"], arguments.device) / 1e9, off=candidate["off"]))
    frame = pd.DataFrame(rows)
    frame["times_fp32"] = frame.median_ms[(frame.library == OURS) & (frame.how == "fp32")].min() / frame.median_ms
    frame["times_torchdiffeq"] = frame.median_ms[frame.library == ORIGINAL].min() / frame.median_ms
    return frame.assign(channels=arguments.channels, batch=arguments.batch, steps=arguments.steps, rounds=rounds)


# --- report ---------------------------------------------------------------------------------------------------------

def table(frame):
    headings = ["library", "how", "ms", "quartiles", "images / s", "× torchdiffeq", "× our fp32", "10⁹ operations / s", "of data sheet", "GB"]
    return markdown(headings, [[
        row.library, row.how, f"{row.median_ms:.1f}", f"{row.lower_quartile_ms:.1f} – {row.upper_quartile_ms:.1f}",
        f"{row.images_per_s:.0f}", f"{row.times_torchdiffeq:.2f}", f"{row.times_fp32:.2f}", f"{row.gflops:.0f}", number(row.of_datasheet, ".2f"),
        number(row.memory_gb, ".2f")] for row in frame.itertuples()])


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--channels", type=int, default=32, help="of the field (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=64, help="images (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=8, help="of Euler (default: %(default)s)")
    parser.add_argument("--device", type=torch.device, default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=20, help="timings of each candidate (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="2 rounds, to see that everything runs")
    parser.add_argument("--no-compile", action="store_true", help="leave out torch.compile, which needs a C++ compiler")
    parser.add_argument("--threads", type=int, help="threads of torch (default: its own choice)")
    parser.add_argument("--cpu-time", action="store_true", help="time of the processor instead of the clock on the wall, with one "
                        "thread: for a machine that has other things to do")
    parser.add_argument("--csv", help="also write all rows, with the machine's facts, to this file")
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    if arguments.cpu_time and (arguments.device.type != "cpu" or arguments.threads != 1):
        raise SystemExit("--cpu-time counts all threads of the processor and no GPU: use it with --device cpu --threads 1")
    if arguments.threads: torch.set_num_threads(arguments.threads)
    facts = machine_facts()
    if arguments.device.type == "cuda": facts["gpu"] = torch.cuda.get_device_name(arguments.device)
    facts["load"] = round(os.getloadavg()[0], 1)
    print(*(f"{name} {value}" for name, value in facts.items()), sep=" · ")
    found = candidates(random_images(arguments.batch, arguments.device), arguments)
    check_equal_work(found)
    frame = measure(found, arguments, 2 if arguments.quick else arguments.rounds)
    print(f"\n**conv2d, {arguments.channels} channels, batch {arguments.batch}, Euler {arguments.steps} steps** (goals: fp32 at "
          f"least 1 × torchdiffeq on a CPU, bf16 at least 1.5 × ours in fp32 where the processor has AMX)\n\n{table(frame)}")
    if arguments.csv: frame.assign(**facts).to_csv(arguments.csv, index=False)


if __name__ == "__main__": main()
