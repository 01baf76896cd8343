"""Each number in the prose of a result page is one that `results/` gives now, or a setting that is named as one."""
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from neuralode_resnet.experiments.records import find_critical, judge_records

ROOT = Path(__file__).parents[2]
NAMES = re.compile(  # numbers that are part of a name
    r"CIFAR-10|Sphere\d+|(Figures?|Tables?|Algorithms?) \d[ a-d,]*|Fehlberg 2\(1\)|Dormand–Prince 5\(4\)|§\d|\(\d{4}\)|log2"
)
NOT_PROSE = re.compile(r"```.*?```|`[^`]*`|\]\([^)]*\)|\$\$.*?\$\$|\$[^$]*\$", re.S)
NUMBER = re.compile(r"(?<![\w.])(?:\d{1,3}(?:,\d{3})+|\d*\.?\d+)(?![\w-]*\d)")


def prose_of(page):
    "The markdown of a page without code, links, formulas and names, in one line."
    cells = json.loads((ROOT / "nbs" / "paper" / f"{page}.ipynb").read_text(encoding="utf-8"))["cells"]
    parts = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    text = "\n\n".join(parts)
    for pattern in (NOT_PROSE, NAMES):
        text = pattern.sub("·", text)
    return re.sub(r"\s+", " ", text)


def unaccounted(text, phrases):
    "Numbers of the text, with what stands around them, that lie in none of the phrases."
    covered = [match.span() for phrase in phrases for match in re.finditer(re.escape(phrase), text)]
    found = []
    for match in NUMBER.finditer(text):
        if not any(start <= match.start() and match.end() <= end for start, end in covered):
            found.append(text[max(0, match.start() - 40):match.end() + 40])
    return found


def read(name, **options):
    return pd.read_csv(ROOT / "results" / f"{name}.csv", **options)


def percent(value, digits=0):
    return f"{100 * value:.{digits}f}"


def numbers_of_beyond():
    rows = read("beyond")
    mean = rows.groupby(["data", "training"])[["flips", "nfe", "accuracy", "oscillation"]].mean()
    ours, rule = "midpoint, controller and depth, 1 %", "midpoint, the paper's adaptation"
    table_1 = read("adaptation_runs").query("data == 'sphere2' and test_method == 'midpoint'")
    again = mean.loc["sphere2", "the paper's adaptation"]
    seed_2 = rows.query("data == 'three_minima' and seed == 2").set_index("training")
    fixed, controlled = seed_2.loc["fehlberg2, fixed"], seed_2.loc["fehlberg2, controller"]
    adaptive = rows.training.str.startswith(("dopri5", "fehlberg2"))
    loose = mean.flips.unstack("training")["fehlberg2, random tolerance"].max()
    on_images = mean.flips.unstack("training")[["dopri5, controller", "fehlberg2, controller"]]
    mnist, cifar10 = on_images.loc["mnist"], on_images.loc["cifar10"]
    drawn = mean.flips.unstack("training")["midpoint, random depth"].drop(["mnist", "cifar10"])
    changes = [mean.oscillation["sphere2", name] for name in ("controller", ours)]
    return {
        f"A survey of {rows.training.nunique()} schemes": "headline",
        f"{rows[~adaptive].training.nunique()} schemes with fixed steps and {rows[adaptive].training.nunique()} with": "schemes",
        f"for {mean.nfe['sphere2', ours]:.0f} evaluations against {mean.nfe['sphere2', rule]:.0f}": "cost on Sphere2",
        f"(its mean accuracy is {mean.accuracy['sphere10', rule]:.2f})": "a lost seed",
        f"leaves {percent(drawn.min())} to {percent(drawn.max())} %, if its range": "random depth",
        f"leaves {percent(mean.flips['cifar10', ours])} % of flips, random depth alone three times": "CIFAR-10",
        f"leaves {percent(table_1.flips.mean(), 1)} % of flips there and {percent(again.flips, 1)} % above, at "
        f"{table_1.nfe.mean():.0f} and {again.nfe:.0f} evaluations": "two versions",
        f"{changes[0]:.2f} and {changes[1]:.2f}, is these few moves": "oscillation",
        f"but up to {percent(loose)} % with": "random tolerance",
        f"leaves {percent(mnist.min())} to {percent(mnist.max())} % on MNIST and {percent(cifar10.min())} to "
        f"{percent(cifar10.max())} % on": "controllers on images",
        f"flips {percent(mean.flips['cifar10', 'fehlberg2, fixed'])} % of ·": "Fehlberg on CIFAR-10",
        f"It is seed 2: it reaches accuracy {fixed.accuracy:.2f} at the fixed tolerance, of which {fixed.reference_accuracy:.2f} is left "
        f"under the reference, and {controlled.accuracy:.2f} with": "the seed that is gone",
        f"to an accuracy of {rows[rows.data == 'cifar10'].accuracy.max():.2f} at most": "images",
    }


def numbers_of_figure_4():
    euler, rk4 = read("figure_4_euler"), read("figure_4_rk4")
    four = rk4.query("train_solver == 'rk4@1/8' and test_solver == 'rk4@1/4'").accuracy.mean()
    of_64 = euler[euler.train_solver == "euler@1/64"].pivot(index="seed", columns="test_solver", values="accuracy")
    lost = of_64["euler@1/64"] - of_64["rk4@1/128"]
    largest = lost.sort_values(ascending=False)
    table = read("sphere2_euler").query("train_solver == 'euler@1/64'").pivot(index="seed", columns="solver", values="accuracy")
    fifteen = table["euler@1/64"] - table["rk4@1/128"]

    cost = {}
    for method in ("euler", "fehlberg2", "dopri5", "rk4"):
        records = read(f"figure_4_{method}")
        judged = judge_records(records)
        finest = find_critical(judged).set_index("seed").loc["mean", "fine"]
        own = records[records.test_solver == records.train_solver].merge(judged[["train_solver", "seed", "level"]])
        cost[method] = round(own[own.level == finest].nfe.mean())

    def short(value, digits=2):
        return f"{value:.{digits}f}".lstrip("0")

    return {
        f"four steps give {short(four, 3)}.": "a coarser step",
        f"(they lose {short(largest.iloc[0])} and {short(largest.iloc[1])})": "two seeds",
        f"The mean over five seeds, {short(lost.mean(), 3)}, is just": "mean of five",
        f"the one seed that loses {short(largest.iloc[0])}.": "the worst seed",
        f"their mean loss and its standard error, {short(fifteen.mean(), 3)} ± {short(fifteen.sem(), 3)},": "fifteen seeds",
        f"Euler needs {cost['euler']} evaluations, Fehlberg {cost['fehlberg2']}, Dormand–Prince {cost['dopri5']}, and rk4, at "
        f"fixed steps, {cost['rk4']}.": "what validity costs",
        f"with 64 {(fifteen <= .1 + 1e-9).sum()} of {len(fifteen)} are": "valid of fifteen",
    }


def numbers_of_why_random_depth():
    mean = read("random_depth_dose").groupby("draw")[["flips", "accuracy", "reference_accuracy"]].mean()
    log, fixed = mean.loc["depth 2 to 8, log"], mean.loc["1 ± 0"]
    return {
        f"{percent(mean.flips['0.5 ± 0.5'])} % are left, where 0 and 2 leave {percent(mean.flips['1 ± 1'])} %": "two brackets",
        f"it is {np.round(log.accuracy, 2):.2f}, with one of four steps {np.round(fixed.accuracy, 2):.2f}.": "coarse accuracy",
        f"{np.round(log.reference_accuracy, 2):.2f} and {np.round(fixed.reference_accuracy, 2):.2f}.": "accuracy of the flow",
    }


def numbers_of_table_1():
    runs = read("adaptation_runs").query("data == 'sphere2' and method == 'euler' and test_method == 'midpoint'")
    checks = read("adaptation_checks").query("data == 'sphere2' and method == 'euler' and test_method == 'midpoint'")
    late = checks[checks.iteration > 9000].groupby("seed")
    last_tenth = late.train_nfe.mean() + late.nfe.mean() / 50
    table = read("sphere2_euler").query("train_solver == 'euler@1/64'").pivot(index="seed", columns="solver", values="accuracy")
    fifteen = table["euler@1/64"] - table["rk4@1/128"]
    euler = read("adaptation_runs").query("method == 'euler' and iterations == 10_000")
    flips = euler.groupby(["data", "test_method"]).flips.mean()
    figure_4 = read("figure_4_euler")
    same = figure_4[figure_4.n_steps == figure_4.train_solver.str.split("/").str[1].astype(float)]
    grid = same.pivot(index=["n_steps", "seed"], columns="test_method", values="accuracy")
    fine = grid[(grid.euler - grid.midpoint).abs() > .1 + 1e-9].reset_index().groupby("seed").n_steps.max() * 2
    found = [100 * grid.euler[n, seed] for seed, n in fine.items()]
    return {
        f"and the grid search {np.mean(found):.1f} % where the paper has 98.7 %.": "the grid",
        f"some {percent(flips.min())} to {percent(flips.max())} % of the test samples": "flips of adapted Euler",
        f"Euler reaches {percent(runs.accuracy.mean(), 1)} % where the paper has 98.9 %": "accuracy",
        f"{runs.nfe.mean():.0f} in the mean over all of training, where the paper has 100.5.": "all of training",
        f"In the last tenth it is {last_tenth.mean():.0f} with a standard error of {last_tenth.sem():.0f}, and 100.5 lies": "last tenth",
        f"their mean loss is {fifteen.mean():.3f} ± {fifteen.sem():.3f} (standard error)": "fifteen seeds",
    }


MEASURED = {
    "beyond": numbers_of_beyond, "figure_4": numbers_of_figure_4,
    "why_random_depth": numbers_of_why_random_depth, "table_1": numbers_of_table_1,
}

SETTINGS = {  # what a protocol, the paper or an axis sets, and what a cell of the page asserts in these words
    "beyond": [
        "the 95 % interval of the mean", "a target of 3 %", "A target of 3 %", "a target of 1 %", "(controller and depth, 1 %)", "With 2 … 30 Euler steps",
        "less than 2 % of flips", "as 16 evaluations happen to be", "batches of 32", "one sample, or 3 %", "A check every 50 iterations",
        "about 1 % of flips under both methods", "changed by up to 2 %", "At the fixed tolerance seed 2 trains in one run of five",
        "seeds 0 and 3 train in all five", "at least 256 steps, on images 16", "with the reference on 99 %",
    ],
    "figure_4": [
        "some are valid with 64 steps, all of five with 128.", "that reach 0.9 under their own solver", "at 128 steps all lie together",
        "2000 + 1000 samples", "0.5, 0.75, 1, 1.5 and 2 times the steps; 0.1, 1 and 10 times the tolerance",
        "Adam 1e-4, batch 128, 10,000 iterations", "0 to 4", "28 trainings of five models", "With 64 Euler steps three of these five are",
        "with 128 steps all are.", "the threshold at 64 steps", "were trained at 64 steps", "with 32 steps no seed is valid", "with 128 all are.",
        "has 65 to 129 evaluations",
    ],
    "why_random_depth": [
        "draw 0, four seeds", "a short training of 1,500 iterations", "factors 0 and 1", "rk4 with 256 steps", "With 16 Euler steps",
        "what 5 steps do to a sample, 27 do not", "between 2 and 30 steps", "over 2 to 14 steps", "1,500 iterations at ten times",
    ],
    "table_1": [
        "seeds below 0.9 test accuracy", "the first 2,000 iterations", "all 1,000 test samples", "between 32 and 64 steps",
        "between 64 and 128", "65–129", "At 64 steps the fate", "with 64 Euler steps six lose", "on which side of 0.1",
        "which allows 10,", "on 900 numbers", "10,000 iterations of five seeds", "2000 + 1000 samples", "32 channels",
        "Adam 1e-4, batch 128, 10,000 iterations (·: 1,000)", "0 to 4 (·: 0 and 1)",
    ],
}


@pytest.mark.parametrize("page", MEASURED)
def test_each_measured_number_is_that_of_the_results(page):
    text = prose_of(page)
    missing = {what: phrase for phrase, what in MEASURED[page]().items() if phrase not in text}
    assert not missing, f"{page}: the prose does not say what results/ gives now: {missing}"


@pytest.mark.parametrize("page", MEASURED)
def test_no_number_of_the_prose_is_without_a_source(page):
    phrases = [*MEASURED[page](), *SETTINGS[page]]
    assert unaccounted(prose_of(page), phrases) == []


@pytest.mark.parametrize("page", SETTINGS)
def test_the_list_of_settings_holds_nothing_that_the_page_dropped(page):
    text = prose_of(page)
    assert [phrase for phrase in SETTINGS[page] if phrase not in text] == []


def test_repeats_are_counted_as_the_prose_says():
    rows, repeats = read("beyond"), read("beyond_repeats")
    learnt = rows.accuracy - 1 / rows.data.map({"three_minima": 3, "mnist": 10, "cifar10": 10}).fillna(2)
    enough = rows[(rows.data == "three_minima") & (learnt >= .8 * learnt.groupby(rows.data).transform("max"))].accuracy.min()
    trains = (repeats.accuracy >= enough).groupby([repeats.training.str.contains("controller"), repeats.seed]).sum()
    assert trains[False, 2] == 1
    assert [seed for seed in range(5) if trains[True, seed] == 5] == [0, 3]
    assert sum(trains[True]) == 10


def test_figure_4_and_table_1_count_their_seeds():
    euler = judge_records(read("figure_4_euler")).set_index(["level", "seed"]).gap
    assert (euler[64] <= .1 + 1e-9).sum() == 3
    assert (euler[128] <= .1 + 1e-9).sum() == len(euler[128]) == 5
    assert (euler[32] > .1).all()
    table = read("sphere2_euler")
    of_64 = table[table.train_solver == "euler@1/64"].pivot(index="seed", columns="solver", values="accuracy")
    assert (of_64["euler@1/64"] - of_64["rk4@1/128"] > .1 + 1e-9).sum() == 6


def test_a_number_without_a_source_is_found():
    assert unaccounted("It leaves 7.5 % there.", ["leaves 7.5 %"]) == []
    assert unaccounted("It leaves 7.6 % there.", ["leaves 7.5 %"]) == ["It leaves 7.6 % there."]
    assert unaccounted("7.5 % there and 12,000 here", ["7.5 % there"]) == ["7.5 % there and 12,000 here"]
