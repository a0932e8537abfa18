"""The house: who may import whom, what waits until it is needed, and what travels in the wheel."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from magpie import shipped
from magpie.recipe.loading import load_recipe
from magpie.steps import steps_of

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "magpie"

# From the bottom to the top, as CONTRIBUTING.md draws the house.
LEVELS = (
    {"errors", "escaping", "machine", "names", "shipped", "text", "replies"},
    {"secrets", "terminal"},
    {"neighbors", "records", "storage"},
    {"recipe"},
    {"models", "user_code"},
    {"sizing"},
    {"chat"},
    {"engines"},
    {"self_instruct"},
    {"steps"},
    {"data"},
    {"runs"},
    {"plan"},
    {"execution"},
    {"figures"},
    {"drawing"},
    {"doctor"},
    {"report", "publish"},
    {"building"},
    {"build"},
    {"api"},
    {"cli"},
    {"__main__"},
)
LEVEL = {name: level for level, names in enumerate(LEVELS) for name in names}
# What the engines, and the steps, have in common; beyond that none knows another.
SHARED = {"engines": {"engines.base", "engines.first_token"}, "steps": {"steps.base"}}
NO_ENGINE = {"engines.embedder"}
HEAVY = {
    "vllm", "torch", "transformers", "faiss", "ray", "datasets", "spacy", "matplotlib", "sentence_transformers",
    "lingua", "duckdb",
}  # fmt: skip
NOT_AT_START = HEAVY | {"pyarrow", "pydantic", "numpy"}


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def dotted(path: Path) -> str:
    """magpie/steps/tag.py is steps.tag, magpie/steps/__init__.py is steps, magpie/__init__.py is ''."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {dotted(path) for path in sources()}


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """(line, module) of every import of magpie's own in a file, wherever in the file it is."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: write imports in full"
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name.removeprefix("magpie.") in MODULES else str(node.module) for name in inside]
        else:
            continue
        yield from ((node.lineno, name[7:]) for name in names if name.startswith("magpie."))


def at_start(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, top-level package) of every import that runs when the module is imported."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.partition(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, str(node.module).partition(".")[0]
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            yield from (found for branch in node.orelse for found in at_start(branch))
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from at_start(node)


def room(module: str) -> str:
    """The room that a module is in: steps.tag is in steps."""
    return module.partition(".")[0]


def fault(importer: str, target: str) -> str | None:
    """What is wrong with the import, or None."""
    mine, theirs = room(importer), room(target)
    if mine != theirs:
        if LEVEL[theirs] < LEVEL[mine]:
            return None
        return "is its neighbour" if LEVEL[theirs] == LEVEL[mine] else "stands above it"
    if mine in SHARED and "." in importer and importer not in NO_ENGINE:
        own = importer.split(".")[:2]  # an engine may be a folder, whose files know each other
        is_shared = any(target == base or target.startswith(f"{base}.") for base in SHARED[mine])
        if not is_shared and target.split(".")[:2] != own:
            return f"is its neighbour; {mine} share only {', '.join(sorted(SHARED[mine]))}"
    return None


def test_every_module_has_a_level() -> None:
    unknown = {room(module) for module in MODULES} - LEVEL.keys() - {""}
    assert not unknown, (
        f"give {sorted(unknown)} a level in tests/test_house.py, and a line in CONTRIBUTING.md"
    )


def test_imports_point_down_only() -> None:
    faults = [
        f"{path.relative_to(ROOT)}:{line}: magpie.{target} {what}"
        for path in sources()
        if dotted(path)
        for line, target in imported(path)
        if (what := fault(dotted(path), target))
    ]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    ("importer", "target", "allowed"),
    [
        ("cli", "build", True),
        ("steps.tag", "engines.base", True),
        ("steps.tag", "steps.base", True),
        ("steps.tag", "steps.base.rows", True),
        ("steps.tag", "steps.clean", False),
        ("steps", "steps.clean", True),
        ("engines.vllm", "engines", False),
        ("engines.vllm", "engines.first_token", True),
        ("engines.embedder", "engines", True),
        ("engines.server", "engines.server.wire", True),
        ("engines.server.wire", "engines.base", True),
        ("engines.server.wire", "engines.vllm", False),
        ("engines", "engines.vllm", True),
        ("execution.local", "storage", True),
        ("data.dataset", "storage.sealed", True),
        ("data.dataset", "runs.run", False),
        ("storage.local", "runs.run", False),
        ("chat", "engines.base", False),
        ("models", "chat", False),
        ("report.show", "publish.formats", False),
        ("steps.tag", "plan", False),
        ("doctor.doctor", "report.text", False),
        ("build", "api", False),
    ],
)
def test_the_rule_itself(importer: str, target: str, allowed: bool) -> None:
    assert (fault(importer, target) is None) == allowed


def test_imports_go_in_no_circle() -> None:
    """File by file, so that each can be read after those it stands on. Imports for type checkers count."""
    imports = {dotted(path): {target for _, target in imported(path)} for path in sources()}
    left = dict(imports)
    while True:  # take away what stands on nothing that is left
        free = {module for module, targets in left.items() if not (targets & left.keys()) - {module}}
        if not free:
            break
        left = {module: targets for module, targets in left.items() if module not in free}
    assert not left, f"these import one another: {', '.join(sorted(left))}"


def test_no_module_but_a_steps_own_knows_its_name() -> None:
    """Everything else asks the steps themselves: see `steps/base/step.py`."""
    names = step_names() - {"language"}  # which is a column as well
    faults = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {node.value!r} is a step's name"
        for path in sources()
        if room(dotted(path)) not in {"steps", "recipe"} and not is_about_filters_or_models(path)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value in names
    ]
    assert not faults, "\n".join(faults)


def step_names() -> set[str]:
    """The names of all steps there are."""
    recipe = load_recipe(
        "demo-full", engine="scripted", overrides={"tag.second_judge": "guard", "respond.rows": "kept"}
    )
    steps = (*steps_of(recipe), *steps_of(load_recipe("self-instruct", engine="scripted")))
    return {step.name for step in steps} - {"candidates", "instances"}  # columns as well


def is_about_filters_or_models(path: Path) -> bool:
    """Where `filter` is a file that people write, or the verb; and `reward` a kind of model that is made here."""
    return dotted(path) in {"", "api", "cli.lists", "data.select", "models.standins"}


def test_only_a_steps_own_file_and_the_list_import_it() -> None:
    """But for the filter, which is also applied to datasets that no run made."""
    faults = [
        f"{path.relative_to(ROOT)}:{line}: magpie.{target}"
        for path in sources()
        for line, target in imported(path)
        if room(dotted(path)) != "steps"
        and target.startswith("steps.")
        and not target.startswith(("steps.base", "steps.filter"))
    ]
    assert not faults, "\n".join(faults)


ROOMS_OF_RUNS = {"build", "api", "cli", "plan", "execution", "figures", "doctor", "report", "runs", "data"}
FOREIGN_FILES = {"data.instructions"}  # what is read there is no file of a run
TOUCHES_FILES = {
    "read_text", "read_bytes", "write_text", "write_bytes", "unlink", "mkdir", "rmdir", "rmtree", "glob", "rglob",
    "iterdir", "rename", "touch", "symlink_to", "hardlink_to", "copyfile", "fsync", "stat",
}  # fmt: skip


def test_only_storage_touches_the_files_of_a_run() -> None:
    faults = [
        f"{path.relative_to(ROOT)}:{node.lineno}: .{node.func.attr}()"
        for path in sources()
        if room(dotted(path)) in ROOMS_OF_RUNS and dotted(path) not in FOREIGN_FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in TOUCHES_FILES
    ]
    assert not faults, "\n".join(faults)


def test_heavy_libraries_are_imported_where_they_are_used() -> None:
    faults = [
        f"{path.relative_to(ROOT)}:{line}: import {package} inside the function that needs it"
        for path in sources()
        for line, package in at_start(ast.parse(path.read_text(encoding="utf-8")))
        if package in HEAVY
    ]
    assert not faults, "\n".join(faults)


def test_at_start_sees_what_runs_and_nothing_else() -> None:
    text = """
if TYPE_CHECKING:
    import torch
try:
    import faiss.contrib
except ImportError:
    pass
class A:
    from vllm import LLM
    def f(self):
        import ray
"""
    assert [package for _, package in at_start(ast.parse(text))] == ["faiss", "vllm"]


@pytest.mark.parametrize("statement", ["import magpie", "import magpie.cli", "from magpie.cli import app"])
def test_the_command_answers_before_anything_heavy_is_loaded(statement: str) -> None:
    """`magpie --help` is quick because of what it does not import; a timing would depend on the machine."""
    loaded = json.loads(python(f"import json, sys; {statement}; print(json.dumps(list(sys.modules)))"))
    assert not NOT_AT_START & {name.partition(".")[0] for name in loaded}


def test_help_loads_nothing_heavy_either() -> None:
    code = (
        "import sys, magpie.cli as cli\n"
        "try: cli.app(['--help'])\n"
        "except SystemExit: pass\n"
        "print(','.join(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert "build" in done.stdout
    assert not NOT_AT_START & {name.partition(".")[0] for name in done.stderr.split(",")}


def python(code: str, *, path: Path = ROOT) -> str:
    """What a fresh Python prints, with `path` first in its search path."""
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=path,
        env=os.environ | {"PYTHONPATH": str(path)},
    ).stdout  # fmt: skip


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds magpie as the wheel installs it."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    site = folder / "site"
    install = ["install", "--quiet", "--no-deps", "--no-index", "--target", str(site), str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", *install], check=True, capture_output=True)
    return site


@pytest.mark.parametrize(
    "kind",
    [
        "recipes",
        "recipes/train",
        "filters",
        "schemas",
        "templates/chat",
        "templates/judge",
        "templates/topics",
        "templates/baseline",
        "templates/models",
        "templates/self_instruct",
        "templates/licences",
        "templates/card",
        "templates/report",
    ],
)
def test_the_wheel_holds_what_ships(installed: Path, kind: shipped.Kind) -> None:
    found = python(f"from magpie import shipped; print(shipped.folder({kind!r}))", path=installed).strip()
    assert Path(found).is_relative_to(installed)
    ours = {path.name: path.read_bytes() for path in shipped.folder(kind).iterdir() if path.is_file()}
    assert ours
    # A folder within, such as recipes/train, is a kind of its own.
    assert {path.name: path.read_bytes() for path in Path(found).iterdir() if path.is_file()} == ours


def test_an_installed_copy_loads_every_recipe_that_ships(installed: Path) -> None:
    code = (
        "import magpie, magpie.shipped as s; print(magpie.__file__); "
        "[print(magpie.load_recipe(n).name) for n in s.names('recipes')]"
    )
    home, *names = python(code, path=installed).split()
    assert Path(home).is_relative_to(installed)
    assert names == shipped.names("recipes")


def test_the_wheel_holds_the_licence_and_nothing_that_is_ours_alone(installed: Path) -> None:
    assert {path.name.partition("-")[0] for path in installed.iterdir()} <= {"magpie", "magpie_synth", "bin"}
    assert list(installed.glob("*.dist-info/licenses/LICENSE"))


def test_no_file_names_a_place_on_one_persons_machine() -> None:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    place = re.compile(r"(?<![\w.$}~/-])/(?:home|Users|root|work|mnt|opt|srv|tmp/w)/[\w.]")
    faults = [
        f"{name}:{number}: {line.strip()[:100]}"
        for name in filter(None, listed.split("\0"))
        if (ROOT / name).is_file()
        for number, line in enumerate(
            (ROOT / name).read_text("utf-8", errors="replace").splitlines(), start=1
        )
        if place.search(line)
    ]
    assert not faults, "\n".join(faults)
