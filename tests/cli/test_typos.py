"A mistyped word is answered before anything heavy is imported."
import subprocess
import sys

import pytest

# The command in a process of its own; the last line says whether PyTorch was imported.
CODE = """
import sys
from neuralode_resnet.cli.main import main
try:
    main()
except SystemExit as end:
    status = end.code
print(f"status {status}, torch {'torch' in sys.modules}, pandas {'pandas' in sys.modules}")
"""


@pytest.mark.parametrize("words, said", [
    ("--help", "audit"),
    ("--version", "neuralode-resnet"),
    ("trian", "train"),
    ("train --help", "--solver"),
    ("audit --help", "--data"),
    ("reproduce --help", "figure-4"),
    ("train sphre2 --solver euler@1/4 --out x", "did you mean sphere2"),
    ("train sphere2 --solver eulr@1/4 --out x", "did you mean euler"),
    ("train sphere2 --solver euler --out x", "needs an accuracy"),
    ("train sphere2 --solver rk4@1/4 --depth 6-2 --out x", "1 <= low <= high"),
    ("train sphere2 --scheme recomended --out x", "did you mean recommended"),
    ("train sphere2 --solver rk4@1/4 --adapt papr --out x", "did you mean paper"),
    ("train sphere2 --solver euler@1/4 --random-solver rk5@1/4 --out x", "did you mean rk4"),
    ("swap nowhere", "there is no nowhere"),
    ("swap . --solver rk5@1/4", "did you mean rk4"),
    ("audit mymodel.py:make", "did you mean mymodel:make?"),
    ("audit my/models.py:make", "did you mean my.models:make?"),
    ("audit no_such_module:make", "No module named 'no_such_module'"),
    ("audit nowhere", "no model nowhere"),
    ("audit os:getcwd --data sphre2", "did you mean sphere2"),
    ("sweep nowhere.toml --out x", "there is no nowhere.toml"),
    ("status nowhere", "there is no nowhere"),
    ("collect nowhere --out x.csv", "there is no nowhere"),
    ("reproduce figure-6 --out x", "did you mean figure-4"),
    ("reproduce figure-1 --out x", "figure_1.ipynb makes it"),
], ids=lambda text: text.replace(" ", "_"))
def test_help_and_mistyped_words_import_no_torch(words, said, tmp_path):
    done = subprocess.run([sys.executable, "-c", CODE, *words.split()], capture_output=True, text=True, cwd=tmp_path)
    wanted = 0 if words.endswith(("--help", "--version")) else 2
    assert said in done.stdout + done.stderr, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == f"status {wanted}, torch False, pandas False", done.stdout + done.stderr
    assert not [*tmp_path.iterdir()]
