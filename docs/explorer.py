"""Weights and samples for the page `explore`, written when the site is built: the models of `results/weights`, nothing else."""
import json
from pathlib import Path

from neuralode_resnet.datasets import load
from neuralode_resnet.models import load_model, member

ROOT = Path(__file__).resolve().parent.parent
#: File, member, method and steps of the training, and what the page says about it. The first two were trained by the page
#: on swapping; the last by `neuralode-resnet train sphere2 --solver rk4@1/4 --depth 2-6 --seed 0 --out FOLDER`.
MODELS = [
    ("sphere2_euler_2.pt", 0, "euler", 2,
     "It was trained with 2 steps of Euler.",
     "Two Euler steps are two layers of a ResNet: the field between them was never learnt."),
    ("sphere2_euler_64.pt", 4, "euler", 64,
     "It was trained with 64 steps of Euler.",
     "Sixty-four Euler steps are close to the flow, but the classifier has still learnt a little of their error."),
    ("sphere2_rk4_depth_2_6.pt", 0, "rk4", 4,
     "It was trained with rk4 and 2 to 6 steps, drawn anew at every iteration.",
     "The error of the solver changed at every iteration, so only the flow was left to learn."),
]


def dense_layers(field) -> list[dict]:
    "The convolution of the paper on a state of two numbers as three dense layers, position by position."
    (w1, b1), (w2, b2), (w3, b3) = [(layer.weight.double(), layer.bias.double()) for layer in field.net[::2]]
    channels = len(b1)
    first = [[w1[c, 0, 0].item() if q == p else 0. for p in range(2)] for q in range(2) for c in range(channels)]
    # tap k of the middle layer at position q reads position p = q + k - 1
    middle = [[w2[o, i, p - q + 1].item() for p in range(2) for i in range(channels)] for q in range(2) for o in range(channels)]
    last = [[w3[0, c, 0].item() if q == p else 0. for p in range(2) for c in range(channels)] for q in range(2)]
    biases = [b1.tolist() * 2, b2.tolist() * 2, b3.tolist() * 2]
    return [dict(weight=weight, bias=bias) for weight, bias in zip((first, middle, last), biases)]


def explorer_models():
    "Pairs of a model in float64 and what the page is told of it."
    for file, index, method, steps, trained, what in MODELS:
        model = load_model(ROOT / "results" / "weights" / file)
        model = member(model, index).double()
        linear = model.head[1]
        head = dict(weight=linear.weight.tolist(), bias=linear.bias.tolist())
        yield model, dict(method=method, steps=steps, trained=trained, what=what, head=head,
                          layers=dense_layers(model.block.field))


def explorer_data() -> str:
    "The script that hands models and test samples to the page."
    data = load("sphere2", seed=0)
    content = dict(x=data.x_test.double().flatten(1).tolist(), y=data.y_test.tolist(),
                   models=[told for _, told in explorer_models()])
    return f"window.NEURALODE_EXPLORER = {json.dumps(content, separators=(',', ':'))};\n"
