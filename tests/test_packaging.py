"""The installed wheel works outside the clone."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from commands import execute, without_settings
from worlds import MAIN

from aind_etl.bundle import bundled

CLONE = Path(__file__).parent.parent

# The interpreter's packages, without the editable installation of the clone.
RUN = """
import sys
sys.path[:] = [path for path in sys.path if path != {clone!r}]
sys.meta_path[:] = [one for one in sys.meta_path if "editable" not in repr(one).lower()]
sys.path.insert(0, {installed!r})
import aind_etl
assert aind_etl.__file__.startswith({installed!r}), aind_etl.__file__
from aind_etl.cli import main
sys.argv[0] = "aind-etl"
main()
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Return the wheel of the clone."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip"]
    built = execute(*pip, "wheel", "--quiet", "--no-deps", "-w", folder, CLONE)
    if built.returncode and "hatchling" in built.stderr and "No matching" in built.stderr:
        pytest.skip("pip could not download hatchling, which builds the wheel")
    assert built.returncode == 0, built.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Return a folder in which the wheel is installed, without its dependencies."""
    folder = tmp_path_factory.mktemp("installed")
    arguments = ["install", "--quiet", "--no-deps", "--no-index", "--target", folder, wheel]
    subprocess.run([sys.executable, "-m", "pip", *arguments], check=True)
    return folder


def run(folder, command, **variables):
    """Run a command in a folder outside the clone, without the caller's settings."""
    environment = without_settings(**variables)
    environment.pop("PYTHONPATH", None)
    environment.pop("AIND_ETL_RESULTS_ROOT", None)
    return execute(*command, cwd=folder, env=environment)


def run_installed(installed, folder, *arguments):
    """Run the command of the wheel in a folder."""
    script = RUN.format(clone=str(CLONE), installed=str(installed))
    return run(folder, [sys.executable, "-c", script, *arguments])


def test_the_wheel_contains_the_package_and_its_files(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    package = {
        path.relative_to(CLONE).as_posix()
        for path in (CLONE / "aind_etl").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    sql = {
        f"aind_etl/_bundled/sql/{path.relative_to(CLONE / 'sql').as_posix()}"
        for path in (CLONE / "sql").rglob("*.sql")
    }
    needed = {*package, *sql, "aind_etl/_bundled/dagster.yaml"}
    assert sql
    assert needed <= names
    information = {name for name in names if ".dist-info/" in name}
    assert names == needed | information
    assert any(name.endswith("/licenses/LICENSE") for name in information)


def test_the_wheel_declares_the_command_and_its_dependencies(wheel):
    archive = zipfile.ZipFile(wheel)
    (entry,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
    assert "aind-etl = aind_etl.cli:main" in archive.read(entry).decode()
    (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    required = set(
        re.findall(r"^Requires-Dist: ([\w-]+)", archive.read(metadata).decode(), re.MULTILINE)
    )
    assert {"dagster", "duckdb", "polars", "pyarrow", "typer", "rich"} <= required
    assert not {"pytest", "hypothesis", "moto"} & required


def test_the_installed_command_loads_and_queries_the_sample(installed, tmp_path):
    ended = run_installed(installed, tmp_path, "run", "--source", "sample:?sessions=1")
    assert ended.returncode == 0, ended.stderr
    assert "fit_parameters_wide" in ended.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lake"]
    settings = (tmp_path / "lake" / "_dagster" / "dagster.yaml").read_text()
    assert settings == (CLONE / "dagster_home" / "dagster.yaml").read_text()
    agree = run_installed(installed, tmp_path, "verify", "--source", "sample:?sessions=1")
    assert agree.stdout.endswith("Source, lake and warehouse agree.\n"), agree.stderr
    count = run_installed(
        installed, tmp_path, "sql", "SELECT count(*) FROM mle_fitting", "-f", "csv"
    )
    assert int(count.stdout.split()[1]) > 0


def test_the_bundled_files_are_those_of_the_clone(installed):
    script = "from aind_etl.bundle import bundled; print(bundled('sql'), bundled('dagster.yaml'))"
    environment = os.environ | {"PYTHONPATH": str(installed)}
    python = [sys.executable, "-S", "-c", script]
    done = execute(*python, cwd=installed, env=environment, check=True)
    found = done.stdout.split()
    assert found == [
        str(installed / "aind_etl/_bundled" / name) for name in ("sql", "dagster.yaml")
    ]
    for path in bundled("sql").rglob("*.sql"):
        copy = Path(found[0]) / path.relative_to(bundled("sql"))
        assert copy.read_bytes() == path.read_bytes()


# --- base installation ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def light(wheel, tmp_path_factory):
    """Return the folder with the commands of a base installation."""
    folder = tmp_path_factory.mktemp("light")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    install = [folder / "bin" / "pip", "install", "--quiet"]
    done = execute(*install, "--constraint", CLONE / "constraints.txt", wheel)
    if done.returncode and "No matching distribution" in done.stderr:
        pytest.skip("pip could not download the packages")
    assert done.returncode == 0, done.stderr
    return folder / "bin"


def ask(light, sample, *command, **variables):
    """Run a command of the base installation on the sample, outside the clone."""
    own = {"AIND_ETL_LAKE": str(sample.lake), "AIND_ETL_WAREHOUSE": str(sample.warehouse)}
    return run(light, [light / command[0], *command[1:]], **own | variables)


def test_the_base_installation_is_small(light):
    listed = execute(light / "pip", "list", "--format", "freeze", check=True)
    names = {line.partition("==")[0] for line in listed.stdout.split()}
    assert len(names - {"pip", "setuptools"}) < 30, names
    assert not names & {"dagster", "s3fs", "matplotlib"}


def test_the_base_installation_answers_queries(light, built):
    # A time with a zone, and a number.
    sql = ask(light, built, "aind-etl", "sql", "SELECT max(finished_at), count(*) FROM analyses")
    assert (sql.returncode, sql.stderr) == (0, "")
    status = ask(light, built, "aind-etl", "status")
    assert MAIN in status.stdout
    exported = ask(light, built, "aind-etl", "export", "marts.xlsx")
    assert exported.returncode == 0, exported.stderr


def test_the_base_installation_serves_notebooks(light, built):
    script = (
        "from aind_etl import Warehouse, get_mle_model_fitting; "
        "subject = Warehouse().sql('SELECT min(subject_id) FROM mle_fits').item(); "
        "print(len(get_mle_model_fitting(subject_id=subject)) > 0)"
    )
    done = ask(light, built, "python", "-c", script)
    assert done.stdout == "True\n", done.stderr


INTERFACES = {
    "the public reader's functions": (
        "from aind_etl import get_mle_model_fitting, get_session_table\n"
        "fits = get_mle_model_fitting(subject_id='652257')\n"
        "print(len(fits), 'latent_variables' in fits, len(get_session_table()))"
    ),
    "trials with the behaviour of the animal": (
        "from aind_etl import Warehouse\n"
        "trials = Warehouse().trials(subject_id='652257', behavior=True)\n"
        "print(trials.height, trials['behavior_session_id'].null_count(), "
        "trials['animal_response'].drop_nulls().len())"
    ),
    "documents": (
        "from aind_etl import Warehouse\n"
        f"found = Warehouse().documents('{MAIN}', {{'subject_id': '652097'}}, {{'status': 1}})\n"
        "print(len(found))"
    ),
    "programs for the public reader": (
        "import aind_etl; aind_etl.replace_public_reader()\n"
        "from aind_analysis_arch_result_access import get_mle_model_fitting\n"
        "print(len(get_mle_model_fitting(subject_id='652257', if_include_latent_variables=False)))"
    ),
}


@pytest.mark.parametrize("interface", INTERFACES)
def test_every_interface_for_readers_works_in_the_base_installation(light, world, interface):
    sample = SimpleNamespace(lake=world / "lake", warehouse=world / "warehouse.duckdb")
    database = world / "results" / "aind-scratch-data" / "aind-dynamic-foraging-cache"
    variables = {"AIND_ETL_BEHAVIOR_DATABASE": str(database)}
    done = ask(light, sample, "python", "-c", INTERFACES[interface], **variables)
    assert done.returncode == 0, done.stderr
    assert not {"0", "False"} & {*done.stdout.split()} or interface.startswith("trials")
    variables |= {"AIND_ETL_WAREHOUSE": str(sample.warehouse)}
    python = [sys.executable, "-c", INTERFACES[interface]]
    whole = execute(*python, env=os.environ | variables, check=True)
    assert done.stdout == whole.stdout


def test_the_base_installation_keeps_snapshots_and_explains_itself(light, world, tmp_path):
    shutil.copy(world / "warehouse.duckdb", tmp_path)
    sample = SimpleNamespace(lake=world / "lake", warehouse=tmp_path / "warehouse.duckdb")
    assert ask(light, sample, "aind-etl", "snapshot", "paper").returncode == 0
    assert "paper" in ask(light, sample, "aind-etl", "snapshots").stdout
    assert "## Traps" in ask(light, sample, "aind-etl", "context").stdout


def test_the_server_for_language_models_names_the_extra_that_it_needs(light, built):
    done = ask(light, built, "aind-etl", "mcp")
    assert done.returncode == 2
    assert "pip install 'aind-etl[mcp]'" in " ".join(done.stderr.split())


@pytest.mark.parametrize("command", ["run", "dev", "report"])
def test_commands_that_need_the_pipeline_say_so(light, built, command):
    done = ask(light, built, "aind-etl", command)
    assert done.returncode == 2
    assert "pip install 'aind-etl[pipeline]'" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
