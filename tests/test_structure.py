"""The package's structure: one direction of imports, and only public names of dependencies."""

import ast
import importlib.metadata
import re
import sys
import tomllib
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "aind_etl"
LAYERS = (
    *("contract", "sample", "sources", "lake", "flatten", "changelog", "results", "sessions"),
    *("warehouse", "client", "orchestration", "cli"),
)
"""The packages in the order of imports: each may import those before it."""
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if "_bundled" not in path.parts
}


@cache
def imports(path):
    """Return the modules and names that a module imports when it runs, as (module, name)."""
    tree = ast.parse(path.read_text())
    for_types = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for node in ast.walk(block)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            package = path.relative_to(ROOT).parts[: -node.level] if node.level else ()
            module = ".".join([*package, node.module])
            found |= {(module, alias.name) for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {(alias.name, "") for alias in node.names}
    return found


def own_imports(path):
    """Return the modules of the package that a module imports."""
    return {
        f"{module}.{name}" if f"{module}.{name}" in MODULES else module
        for module, name in imports(path)
        if module.split(".")[0] == "aind_etl"
    }


def layer(module):
    """Return the place of a module's package in the order; modules at the root come first."""
    package = module.split(".")[1] if "." in module else ""
    return LAYERS.index(package) if package in LAYERS else -1


def test_every_package_has_a_place_in_the_order():
    packages = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert packages == set(LAYERS)


def test_a_module_imports_only_from_packages_before_its_own():
    later = [
        f"{module} imports {name}"
        for module in MODULES.keys() - {"aind_etl"}
        for name in own_imports(MODULES[module])
        if layer(name) > layer(module)
    ]
    assert later == []


def test_there_are_no_import_cycles():
    graph = {name: own_imports(path) - {name} for name, path in MODULES.items()}
    del graph["aind_etl"]
    list(TopologicalSorter(graph).static_order())


def test_few_modules_are_at_the_root():
    loose = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    assert loose == {"bundle", "errors", "progress", "settings", "text"}


def test_only_the_orchestration_imports_dagster():
    importing = {
        module
        for module, path in MODULES.items()
        if any(source.startswith("dagster") for source, _ in imports(path))
    }
    assert {module.split(".")[1] for module in importing} == {"orchestration"}


def test_only_public_names_of_dependencies_are_imported():
    private = [
        (module, source, name)
        for module, path in MODULES.items()
        for source, name in imports(path)
        if source.split(".")[0] != "aind_etl" and re.search(r"(^|\.)_[a-z]", f"{source}.{name}")
    ]
    assert private == []


def test_imported_packages_are_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = [one for extra in project["optional-dependencies"].values() for one in extra]
    declared = {
        re.match(r"[\w-]+", one)[0].lower().replace("_", "-")
        for one in [*project["dependencies"], *optional]
    }
    providers = importlib.metadata.packages_distributions()
    used = {module.split(".")[0] for path in MODULES.values() for module, _ in imports(path)}
    for top in used - set(sys.stdlib_module_names) - {"aind_etl"}:
        names = {name.lower().replace("_", "-") for name in providers[top]}
        assert names & declared, f"{top} comes from {names}, which pyproject.toml does not declare"
