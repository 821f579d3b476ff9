"""Passwords appear nowhere: not in output, logs, history, lake or warehouse."""

import sys
import traceback
from urllib.parse import quote

import pytest
from commands import execute, without_settings
from mongod import mongod_or_skip
from pymongo import MongoClient
from worlds import read_dump, write_dump

from aind_etl.errors import AindEtlError, DataError, SourceError, UnexpectedError
from aind_etl.orchestration.steps import hiding_credentials

pytestmark = pytest.mark.slow

SECRET = "horse/b@ttery:st%ple"
WRONG = "wr0ng/b@ttery:st%ple"
USERNAME = "reading-user"
SMALL = "dynamic-foraging-nm"


def address(port, password=None):
    """Return the address of the guarded server, with credentials if a password is given."""
    user = f"{USERNAME}:{quote(password, safe='')}@" if password else ""
    return f"mongodb://{user}127.0.0.1:{port}/analysis?authSource=admin"


@pytest.fixture(scope="module")
def guarded(sample_dump, tmp_path_factory):
    """Yield the port of a server that requires a password, with a database to read."""
    with mongod_or_skip(tmp_path_factory.mktemp("guarded"), "--auth") as port:
        with MongoClient("127.0.0.1", port) as first:
            # Allowed from this host without credentials, as long as there is no user.
            first.admin.command("createUser", "root", pwd="root", roles=["root"])
        with MongoClient("127.0.0.1", port, username="root", password="root") as root:
            role = {"role": "read", "db": "analysis"}
            root.admin.command("createUser", USERNAME, pwd=SECRET, roles=[role])
            root["analysis"][SMALL].insert_many(read_dump(sample_dump, SMALL))
        yield port


LOGGING = """
import logging
import sys
logging.basicConfig(level=logging.DEBUG)
from aind_etl.cli import main
"""
ONCE = LOGGING + "main()"
# In one process, since starting one takes longest.
ONE_BY_ONE = f"""{LOGGING}
for command in sys.argv[1:]:
    sys.argv[1:] = command.split()
    try:
        main()
    except SystemExit as ended:
        print("ended with", ended.code, flush=True)
"""


def run(folder, *arguments, program=ONCE, **variables):
    """Run the command in a folder that contains all its files, with debug logging."""
    environment = without_settings(
        DAGSTER_HOME=str(folder / "dagster"), AIND_ETL_LAKE=str(folder / "lake")
    )
    python = [sys.executable, "-c", program, *arguments]
    return execute(*python, env=environment | variables, cwd=folder, errors="replace")


def places_with(secret, folder, *runs):
    """Return the places that contain a secret, literally or percent-encoded."""
    forms = [form.encode() for form in {secret, quote(secret, safe=""), quote(secret)}]
    kept = {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert any("dagster" in name for name in kept)
    output = {f"run {n}": (done.stdout + done.stderr).encode() for n, done in enumerate(runs)}
    return [
        name for name, content in (kept | output).items() if any(form in content for form in forms)
    ]


def test_a_password_appears_nowhere_after_run_verify_and_status(guarded, tmp_path):
    source = address(guarded, SECRET)
    credentials = {"AIND_ETL_MONGODB_USERNAME": USERNAME, "AIND_ETL_MONGODB_PASSWORD": SECRET}
    runs = [
        run(tmp_path, "run", "--source", source),
        run(tmp_path, "verify", "--deep", "--source", address(guarded), **credentials),
        run(tmp_path, "status", AIND_ETL_SOURCE=source),
    ]
    assert [done.returncode for done in runs] == [0, 0, 0], runs[-1].stderr
    assert str(guarded) in runs[2].stdout
    assert places_with(SECRET, tmp_path, *runs) == []


def test_a_refused_password_appears_nowhere(guarded, tmp_path):
    source = address(guarded, WRONG)
    sources = [source, source + "&tlsmisspelt=1", source.replace("%40", "@")]
    done = run(tmp_path, *(f"run --source {source}" for source in sources), program=ONE_BY_ONE)
    assert done.stdout.split("ended with ")[1:] == ["3\n", "2\n", "2\n"]
    assert "refuses the user name or the password" in done.stderr
    assert places_with(WRONG, tmp_path, done) == []
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "url",
    ["http://me:s3cret@host:9000/x", "mongodb+srv://me:s3cr%40et@h/db", "s3://key:s3cret@bucket/a"],
)
def test_no_error_shows_the_credentials_of_an_address(url):
    for kind in (AindEtlError, DataError, SourceError, UnexpectedError):
        text = str(kind(f'Could not connect to the endpoint URL: "{url}".'))
        assert "s3c" not in text
        assert "me" not in text.split("://")[1].partition("@")[0]
        assert text.endswith(f'@{url.partition("@")[2]}".')


def test_the_credentials_of_an_unreachable_store_appear_nowhere(sample_dump, tmp_path):
    write_dump(tmp_path / "dump", read_dump(sample_dump, SMALL), SMALL)
    done = run(
        tmp_path,
        *("run", "--source", "dump"),
        # Without debug logging, in which libraries show their requests.
        program="from aind_etl.cli import main; main()",
        AIND_ETL_RESULTS_ROOT="s3://",
        AIND_ETL_S3_ENDPOINT_URL=f"http://{USERNAME}:s3cret-word@127.0.0.1:9",
    )
    assert done.returncode == 3
    assert "cannot be reached" in done.stderr
    assert places_with("s3cret-word", tmp_path, done) == []


def test_an_error_keeps_the_causes_without_credentials():
    @hiding_credentials()
    def step(url):
        ours = SourceError("it failed")
        ours.__cause__ = ValueError("a cause")
        ours.__cause__.__cause__ = OSError(url)
        raise ours

    for url, shown in (("http://host/", True), ("http://me:s3cret@host/", False)):
        with pytest.raises(SourceError) as caught:
            step(url)
        text = "".join(traceback.format_exception(caught.value))
        assert "a cause" in text
        assert (url in text) is shown
