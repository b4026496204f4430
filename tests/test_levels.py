"""Imports point one way: words know nothing of models, reading a study loads neither torch nor ray, members do not meet."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import autoslim
from autoslim import plugins
from autoslim.errors import UserError

ROOT = Path(autoslim.__file__).parent
DOCS = Path(__file__).parents[1] / "docs"
WORDS = (
    "errors",
    "recipe",
    "metrics",
    "budget",
    "candidate",
    "pareto",
    "space",
    "statistics",
    "structure",
    "solver",
    "forecast",
    "correction",
    "effects",
    "formats",
    "growth",
)


def imported(path, everywhere=True):
    """Dotted names that a file imports; ``everywhere`` includes those inside functions."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = ast.walk(tree) if everywhere else iter(tree.body)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own(names):
    """The parts of autoslim among them, by file."""
    return {name.split(".")[1] for name in names if name.startswith("autoslim.")}


@pytest.mark.parametrize("word", WORDS)
def test_words_stand_on_words_numpy_and_the_standard_library(word):
    path = ROOT / f"{word}.py"
    top = {name.split(".")[0] for name in imported(path, everywhere=False)}
    assert top <= {*sys.stdlib_module_names, "numpy", "autoslim"}
    assert {name.split(".")[0] for name in imported(path)} <= {*sys.stdlib_module_names, "numpy", "autoslim", "moocore", "scipy", "yaml"}
    assert own(imported(path)) <= set(WORDS)


def test_the_words_are_those_of_the_architecture_page():
    told = (DOCS / "architecture.md").read_text(encoding="utf-8")
    lines = [line for line in told.splitlines() if line.startswith("| words |")]
    files = {name.removesuffix(".py") for line in lines for name in re.findall(r"`(\w+\.py)`", line)}
    assert files == set(WORDS)


def test_words_import_each_other_without_a_circle():
    below = {word: own(imported(ROOT / f"{word}.py")) for word in WORDS}
    while below:
        free = {word for word, needs in below.items() if not needs}
        assert free, f"a circle among {sorted(below)}"
        below = {word: needs - free for word, needs in below.items() if word not in free}


@pytest.mark.parametrize("door", plugins.DOORS)
def test_members_of_a_door_do_not_import_each_other(door):
    assert plugins.names(door)
    for path in (ROOT / door).glob("*.py"):
        others = {name.split(".")[2] for name in imported(path) if name.startswith(f"autoslim.{door}.")}
        public = {name for name in others if not name.startswith("_")}
        assert not public, f"{door}/{path.name} imports {public}"


@pytest.mark.parametrize("door", plugins.DOORS)
def test_every_member_says_in_one_line_what_it_is(door):
    for name in plugins.names(door):
        assert len(plugins.summary(door, name)) > 20


def test_reading_and_planning_load_neither_torch_nor_ray():
    code = (
        "import sys, autoslim, autoslim.spec, autoslim.study, autoslim.tables, autoslim.report, autoslim.search, autoslim.checking, autoslim.watching, autoslim.reading, autoslim.ablating\n"
        "print(sorted({'torch', 'ray', 'onnxruntime', 'torch_pruning'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent)
    assert done.stdout.strip() == "[]"


def test_importing_the_package_loads_none_of_its_rooms():
    code = "import sys, autoslim; print([name for name in sys.modules if name.startswith(('autoslim.', 'numpy', 'optuna'))])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent)
    assert done.stdout.strip() == "[]"


def test_public_names_are_there():
    for name in autoslim.__all__:
        assert getattr(autoslim, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = autoslim.nothing


def test_an_unknown_member_lists_the_known_ones():
    with pytest.raises(UserError, match=r"techniques: got 'magic', allowed: bits, channels, "):
        plugins.load("techniques", "magic")
