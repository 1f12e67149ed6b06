"""The order of the house: imports run downwards only."""

import ast
from pathlib import Path

import pytest

import dreamerzero

PACKAGE = Path(dreamerzero.__file__).parent
LAYERS = [
    {"types"},
    {"ops"},
    {"nn"},
    {"envs", "replay", "worlds", "planning"},  # these do not know each other
    {"agents"},
    {"training"},
    {"viz"},
    {"cli"},
    {"__init__", "__main__"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
RANK["__version__"] = -1  # a fact about the package, of no layer
FILES = sorted(PACKAGE.rglob("*.py"))


def imported(path):
    """The dotted name of everything that a file imports, wherever in it."""
    package = path.relative_to(PACKAGE.parent).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            parent = ".".join((*above, *filter(None, [node.module])))
            yield from (f"{parent}.{alias.name}" for alias in node.names)


def part(dotted):
    """`dreamerzero.ops.returns` → `ops`; a name of the public face → `__init__`."""
    name = dotted.split(".")[1]
    return name if name in RANK else "__init__"


def faults(path):
    own = path.relative_to(PACKAGE).with_suffix("").parts[0]
    for name in imported(path):
        root = name.split(".")[0]
        if name.startswith("jax._src"):
            yield f"{name} is private"
        if root == "distrax" and path != PACKAGE / "nn" / "distributions.py":
            yield "distrax belongs to nn/distributions.py"
        if root == "dreamerzero" and part(name) != own and RANK[part(name)] >= RANK[own]:
            yield f"{own} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_downwards(path):
    assert not list(faults(path))


@pytest.mark.parametrize(
    ("where", "line"),
    [
        ("ops", "from dreamerzero.nn import heads"),
        ("planning", "import dreamerzero.worlds.rssm"),
        ("worlds", "from dreamerzero import replay"),
        ("replay", "from ..envs import api"),
        ("agents", "def late():\n    from dreamerzero.training.program import train"),
        ("viz", "import dreamerzero.cli"),
        ("envs", "from dreamerzero import train"),
        ("nn", "import distrax"),
        ("agents", "from jax._src import core"),
    ],
)
def test_a_fault_is_found(where, line, tmp_path, monkeypatch):
    package = tmp_path / "dreamerzero"
    (package / where).mkdir(parents=True)
    (package / where / "file.py").write_text(line)
    monkeypatch.setattr(f"{__name__}.PACKAGE", package)
    assert len(list(faults(package / where / "file.py"))) == 1
