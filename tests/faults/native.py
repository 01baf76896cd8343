"The cache of compiled code: others' folders and libraries, no home, a compiler that is none, one that is killed."
import os
import shutil
import stat
import subprocess
import time
import warnings
from pathlib import Path

import torch

from neuralode_resnet.models import NeuralODE
from neuralode_resnet.solvers import kernel

from .board import Kind, SilentlyWrong, check_same, end_of, start

STRANGER = "__attribute__((constructor)) static void run(void) { FILE *f = fopen(\"MARK\", \"w\"); if (f) fclose(f); }"


def compiled(folder):
    "A library, and a compiler that hands it out at once; the name that the cache gives it; a solve as it should be."
    mine = folder / "mine"
    with environment(XDG_CACHE_HOME=str(mine)):
        assert kernel.library() is not None
    path, = (mine / "neuralode_resnet").glob("*.so")
    compiler = folder / "cc"
    compiler.write_text(f"""#!/bin/sh
for word; do case "$word" in -dM) echo "#define OF_A_TEST 1"; exit 0;; esac; done
while [ "$1" != -o ]; do shift; done
cp "{path}" "$2"
""")
    compiler.chmod(0o755)
    with environment(XDG_CACHE_HOME=str(folder / "named"), CC=str(compiler)):
        assert kernel.library() is not None
    named, = (folder / "named" / "neuralode_resnet").glob("*.so")
    return path, compiler, named.name, solved()


class environment:
    "Within the block the environment is another one, and nothing is remembered of what was loaded."

    def __init__(self, **changes):
        self.changes = changes

    def __enter__(self):
        self.before = dict(os.environ)
        for name, value in self.changes.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        kernel._load.cache_clear()

    def __exit__(self, *error):
        os.environ.clear()
        os.environ.update(self.before)


def solved():
    "A solve, as a list of numbers."
    model = NeuralODE.for_data(Shape, "rk4@1/4", channels=4, seed=1)
    with torch.no_grad():
        return model(torch.linspace(-1, 1, 12).view(6, 1, 2)).flatten().tolist()


class Shape:
    x_train = torch.zeros(4, 1, 2)
    n_classes = 2


def stranger(folder, scene):
    "A library that leaves a mark when it is loaded."
    mark, path = folder / "loaded", folder / "stranger.so"
    source = "#include <stdio.h>\n" + STRANGER.replace("MARK", str(mark))
    subprocess.run(["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(path)], input=source.encode(), check=True)
    return path, mark


def planted(folder, scene, cache):
    "The stranger under the name that its content has, so that the hash in the name fits."
    path, mark = stranger(folder, scene)
    key = scene[2].split("-")[0]
    cache.mkdir(parents=True, exist_ok=True)
    name = cache / f"{key}-{kernel._hash(path.read_bytes())}.so"
    shutil.copy(path, name)
    return name, mark


# Each act returns the environment of the attack, and what a warning says, or None

def writable(folder, scene, rng):
    cache = folder / "neuralode_resnet"
    planted(folder, scene, cache)
    cache.chmod(rng.choice([0o777, 0o770, 0o722, 0o1777]))
    return dict(XDG_CACHE_HOME=str(folder)), "others can write"


def writable_above(folder, scene, rng):
    above = folder / "above"
    planted(folder, scene, above / "neuralode_resnet")
    (above / "neuralode_resnet").chmod(0o700)
    above.chmod(0o777)
    return dict(XDG_CACHE_HOME=str(above)), "others can write"


def of_another(folder, scene, rng):
    cache = folder / "neuralode_resnet"
    planted(folder, scene, cache)
    cache.chmod(0o700)
    if os.geteuid() != 0:
        return None
    os.chown(cache, 12345, 12345)
    return dict(XDG_CACHE_HOME=str(folder)), "another user"


def file_of_another(folder, scene, rng):
    name, _ = planted(folder, scene, folder / "neuralode_resnet")
    (folder / "neuralode_resnet").chmod(0o700)
    if os.geteuid() != 0:
        return None
    os.chown(name, 12345, 12345)
    return dict(XDG_CACHE_HOME=str(folder)), None


def link(folder, scene, rng):
    name, _ = planted(folder, scene, folder / "elsewhere")
    cache = folder / "neuralode_resnet"
    cache.mkdir(mode=0o700)
    (cache / name.name).symlink_to(name)
    return dict(XDG_CACHE_HOME=str(folder)), None


def linked_folder(folder, scene, rng):
    planted(folder, scene, folder / "elsewhere")
    (folder / "elsewhere").chmod(0o777)
    (folder / "neuralode_resnet").symlink_to(folder / "elsewhere", target_is_directory=True)
    return dict(XDG_CACHE_HOME=str(folder)), "others can write"


def garbled(folder, scene, rng):
    cache = folder / "neuralode_resnet"
    cache.mkdir(mode=0o700)
    raw = bytearray(scene[0].read_bytes())
    if rng.random() < .5:
        raw = raw[:rng.randrange(len(raw))]
    else:
        raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    (cache / scene[2]).write_bytes(raw)
    return dict(XDG_CACHE_HOME=str(folder)), None


def a_pipe(folder, scene, rng):
    cache = folder / "neuralode_resnet"
    cache.mkdir(mode=0o700)
    os.mkfifo(cache / scene[2])
    return dict(XDG_CACHE_HOME=str(folder)), None


def a_folder(folder, scene, rng):
    (folder / "neuralode_resnet" / scene[2]).mkdir(parents=True)
    (folder / "neuralode_resnet").chmod(0o700)
    return dict(XDG_CACHE_HOME=str(folder)), ""


def a_file(folder, scene, rng):
    (folder / "neuralode_resnet").write_text("mine")
    return dict(XDG_CACHE_HOME=str(folder)), "neuralode_resnet"


def relative(folder, scene, rng):
    return dict(XDG_CACHE_HOME=rng.choice(["cache", "./cache", "~", "..", "~/cache"])), "not an absolute path"


def no_home(folder, scene, rng):
    return dict(XDG_CACHE_HOME=rng.choice([None, ""]), HOME=rng.choice(["", "relative", "."])), "no home directory"


def home_that_is_not_there(folder, scene, rng):
    return dict(XDG_CACHE_HOME=None, HOME="/proc/nothing"), ""


def blank_compiler(folder, scene, rng):
    return dict(XDG_CACHE_HOME=str(folder), CC=rng.choice(["", " ", "\t ", "\n"]), PATH=f"{folder}:{os.environ['PATH']}"), None


def no_compiler(folder, scene, rng):
    return dict(XDG_CACHE_HOME=str(folder), CC="nothing-like-this", PATH=str(folder)), "no C compiler"


def failing_compiler(folder, scene, rng):
    script = folder / "bin" / "cc"
    script.parent.mkdir()
    script.write_text("#!/bin/sh\n" + rng.choice(["exit 1", "exit 0", "kill -9 $$", "echo x; exit 3", "printf x > /dev/full"]) + "\n")
    script.chmod(0o755)
    return dict(XDG_CACHE_HOME=str(folder), CC=str(script), PATH=str(script.parent)), "no native code"


def library_without_functions(folder, scene, rng):
    path, _ = stranger(folder, scene)
    empty = folder / "empty.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(empty)], input=b"int other;", check=True)
    script = folder / "bin" / "cc"
    script.parent.mkdir()
    script.write_text(f"#!/bin/sh\nfor word; do case \"$word\" in -dM) exit 0;; esac; done\nwhile [ \"$1\" != -o ]; do shift; done\n"
                      f"/bin/cp {empty} \"$2\"\n")
    script.chmod(0o755)
    return dict(XDG_CACHE_HOME=str(folder), CC=str(script), PATH=str(script.parent)), "no native code"


def killed_compiler(folder, scene, rng):
    "A process is killed while its compiler works; another time has passed when the next one starts."
    slow = folder / "slow"
    slow.write_text(scene[1].read_text().replace("#!/bin/sh", "#!/bin/sh\ncase \"$*\" in *-dM*) ;; *) sleep 5;; esac"))
    slow.chmod(0o755)
    changes = dict(XDG_CACHE_HOME=str(folder), CC=str(slow))

    def compile_slowly():
        with environment(**changes):
            kernel.library()
    pid = start(compile_slowly, folder / "log")
    cache = folder / "neuralode_resnet"
    while not (cache.exists() and any(cache.iterdir())):
        time.sleep(.01)
    os.kill(pid, 9)
    end_of(pid)
    for left in cache.iterdir():
        os.utime(left, (0, 0))
    return dict(XDG_CACHE_HOME=str(folder)), None


def many(folder, scene, rng):
    cache = folder / "neuralode_resnet"
    cache.mkdir(mode=0o700)
    for n in range(40):
        (cache / f"{n:016x}-{n:016x}.so").write_bytes(b"x" * 10)
        os.utime(cache / f"{n:016x}-{n:016x}.so", (n, n))
    return dict(XDG_CACHE_HOME=str(folder)), None


ACTS = [writable, writable_above, of_another, file_of_another, link, linked_folder, garbled, a_pipe, a_folder, a_file, relative, no_home,
        home_that_is_not_there, blank_compiler, no_compiler, failing_compiler, library_without_functions, killed_compiler, many]


def _attempt(scene, rng, i, folder):
    "The stranger's library is not loaded; what is solved is right; a warning says what was refused, once."
    folder.chmod(0o755)
    folder.parent.chmod(0o755)
    act = ACTS[i % len(ACTS)]
    _, compiler, _, expected = scene
    attack = act(folder, scene, rng)
    if attack is None:
        return "right"
    changes, says = attack
    here = folder / "here"
    here.mkdir()
    os.chdir(here)
    try:
        with warnings.catch_warnings(record=True) as warned, environment(**{"CC": str(compiler), **changes}):
            warnings.simplefilter("always")
            functions = kernel.library()
            found = solved()
    finally:
        os.chdir("/")
        kernel._load.cache_clear()
    said = [str(warning.message) for warning in warned]
    check_same((folder / "loaded").exists(), False, f"{act.__name__}: a stranger's library was loaded")
    if max(abs(a - b) for a, b in zip(found, expected)) > 1e-5:
        raise SilentlyWrong(f"{act.__name__}: {found} is not {expected}")
    assert not list(here.iterdir()), f"{act.__name__}: left in the working directory: {list(here.iterdir())}"
    assert len(said) <= 1, f"{act.__name__}: {said}"
    if says is None:
        assert functions is not None and not said, f"{act.__name__}: {said}"
    else:
        assert functions is not None or said, f"{act.__name__}: nothing was said"
        assert says == "" or says in said[0], f"{act.__name__}: {said}"
    cache = folder / "neuralode_resnet"
    if cache.is_dir() and act not in (of_another, linked_folder, writable):
        left = [path.name for path in cache.iterdir()]
        assert len(left) <= 16, f"{act.__name__}: {len(left)} files"
        assert not [name for name in left if name.startswith(kernel._COMPILING)], f"{act.__name__}: {left}"
        assert not stat.S_IMODE(cache.stat().st_mode) & 0o022
    return "refused" if said else "right"


KINDS = [Kind("attacks on the cache of compiled code", "no stranger's code runs; one warning; the right result", 38, 19, _attempt, compiled,
              limit=60.)]
