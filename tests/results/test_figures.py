"""Figures: which are chosen, what they are called, and downloading them again and again."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import date
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from aind_etl.cli.app import app
from aind_etl.contract import tables
from aind_etl.lake import Lake
from aind_etl.results import ResultStore, newest_figures, open_result_store
from aind_etl.results.figures import (
    FIGURE,
    Figure,
    Selection,
    _file_name,
    _with_names,
    choose_figures,
    download_figures,
    preview_of,
)
from aind_etl.settings import load_settings
from aind_etl.warehouse.connection import connect

SAFE = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")


def picture(colour: int, size: tuple[int, int] = (640, 200)) -> bytes:
    """Return a PNG."""
    file = BytesIO()
    Image.new("RGB", size, (colour % 256, colour // 256 % 256, 0)).save(file, "PNG")
    return file.getvalue()


@dataclass(frozen=True)
class Figures:
    """A lake and a warehouse, and the figures they list below a folder that replaces s3://."""

    lake: Lake
    warehouse: Path
    results: Path


@pytest.fixture(scope="module")
def sample(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Figures:
    """Return the sample, with another figure of the listed size for every analysis."""
    results = tmp_path_factory.mktemp("figures")
    sample = Figures(Lake(world / "lake"), world / "warehouse.duckdb", results)
    for number, one in enumerate(chosen(sample)):
        if one.size_bytes is not None:
            place = results / str(one.location).removeprefix("s3://")
            place.mkdir(parents=True)
            # Bytes after the end of a PNG are ignored.
            (place / FIGURE).write_bytes(picture(number).ljust(one.size_bytes, b"\0"))
    return sample


@pytest.fixture
def store(sample: Figures) -> Iterator[ResultStore]:
    """Return the store of the figures."""
    with open_result_store(load_settings(results_root=str(sample.results))) as store:
        yield store


def chosen(sample: Figures, selection: Selection = Selection()) -> tuple[Figure, ...]:  # noqa: B008 - it cannot change
    with connect(sample.warehouse) as connection:
        return choose_figures(connection, selection)


def names_of(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# --- which, and under which names -----------------------------------------------------------


def test_every_fit_has_its_figure_under_a_name_of_its_own(sample: Figures) -> None:
    figures = chosen(sample)
    assert len({one.file_name for one in figures}) == len(figures) > 250
    for one in figures:
        session = str(one.nwb_name).removesuffix(".nwb")
        assert one.file_name == f"{session}_{one.agent_alias}_{one.record_id[:10]}.png"


@pytest.mark.parametrize(
    "selection",
    [
        Selection(subject_id="652324"),
        Selection(session_date=date(2024, 10, 24)),
        Selection(agent_alias="WSLS"),
        Selection(subject_id="652175", agent_alias="QLearning_L2F1_softmax"),
    ],
    ids=str,
)
def test_a_selection_chooses_what_it_says(sample: Figures, selection: Selection) -> None:
    figures = chosen(sample, selection)
    assert 0 < len(figures) < len(chosen(sample))
    conditions = {name: value for name, value in asdict(selection).items() if value is not None}
    analyses = sample.lake.tables.scan(tables.ANALYSES)
    wanted = analyses.filter(outcome="success", **conditions).collect()
    assert {one.record_id for one in figures} == set(wanted["record_id"])


def test_a_record_is_chosen_by_the_beginning_of_its_id(sample: Figures) -> None:
    one = chosen(sample)[7]
    assert chosen(sample, Selection(record_id=one.record_id[:10])) == (one,)
    assert chosen(sample, Selection(record_id="%")) == ()


@given(st.text(max_size=300) | st.none(), st.text(max_size=40) | st.none(), st.text(max_size=64))
def test_a_file_name_is_safe_for_any_document(
    nwb_name: str | None, agent: str | None, identity: str
) -> None:
    name = _file_name(Figure(identity, nwb_name, agent, None, None, None), identity)
    assert set(name) <= SAFE
    assert name.endswith(".png")
    assert not name.startswith(".")
    assert len(name) < 255


@given(st.lists(st.sampled_from(["aaaaaaaaaa1", "AAAAAAAAAA1", "aaaaaaaaaa2", "b"]), max_size=8))
def test_no_two_figures_have_one_name(ids: list[str]) -> None:
    figures = [Figure(one, "x", "y", None, 1, None) for one in ids]
    names = [one.file_name.casefold() for one in _with_names(figures)]
    assert len(set(names)) == len(names)


# --- downloading ----------------------------------------------------------------------------


def test_figures_arrive_byte_for_byte_and_only_once(
    sample: Figures, store: ResultStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = chosen(sample, Selection(subject_id="652324"))
    there = [one for one in figures if one.size_bytes is not None]
    done: list[int] = []
    report = download_figures(store, figures, tmp_path / "to", progress=done.append)
    assert (report.downloaded, report.present) == (len(there), 0)
    assert sum(done) == len(figures)
    assert names_of(tmp_path / "to") == {one.file_name for one in there}
    for one in there:
        source = sample.results / str(one.location).removeprefix("s3://") / FIGURE
        assert (tmp_path / "to" / one.file_name).read_bytes() == source.read_bytes()
    monkeypatch.setattr("aind_etl.results.figures.write_whole", None)  # Nothing is written again.
    again = download_figures(store, figures, tmp_path / "to")
    assert (again.downloaded, again.present) == (0, len(there))


def test_a_figure_of_another_size_is_replaced(
    sample: Figures, store: ResultStore, tmp_path: Path
) -> None:
    figures = [one for one in chosen(sample) if one.size_bytes is not None][:3]
    (tmp_path / figures[1].file_name).write_bytes(b"half")
    report = download_figures(store, figures, tmp_path)
    assert report.downloaded == 3
    assert (tmp_path / figures[1].file_name).stat().st_size == figures[1].size_bytes


def test_missing_figures_are_listed_and_are_no_failure(
    sample: Figures, store: ResultStore, tmp_path: Path
) -> None:
    figures = chosen(sample)
    without = [one for one in figures if one.size_bytes is None]
    assert without
    report = download_figures(store, without, tmp_path)
    assert [one for one, _ in report.missing] == without
    assert all(FIGURE in reason for _, reason in report.missing)


def test_an_interrupted_download_leaves_whole_figures_and_is_continued(
    sample: Figures, store: ResultStore, tmp_path: Path
) -> None:
    figures = [one for one in chosen(sample) if one.size_bytes is not None][:20]
    done = 0

    def interrupt(_figures: int) -> None:
        nonlocal done
        done += _figures
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download_figures(store, figures, tmp_path, progress=interrupt)
    assert len(names_of(tmp_path)) == 5
    sizes = {one.file_name: one.size_bytes for one in figures}
    assert all(path.stat().st_size == sizes[path.name] for path in tmp_path.iterdir())
    report = download_figures(store, figures, tmp_path)
    assert (report.downloaded, report.present) == (15, 5)


# --- previews -------------------------------------------------------------------------------


def test_the_newest_figures_have_previews(sample: Figures, store: ResultStore) -> None:
    previews = newest_figures(sample.lake, store, 3)
    by_time = sorted(chosen(sample), key=lambda one: str(one.finished_at), reverse=True)
    assert list(previews) == [one.file_name for one in by_time[:3]]
    for preview in previews.values():
        with Image.open(BytesIO(preview)) as image:
            assert max(image.size) <= 560


def test_without_figures_there_are_no_previews(
    sample: Figures, lake: Lake, store: ResultStore, tmp_path: Path
) -> None:
    assert newest_figures(lake, store, 3) == {}
    with open_result_store(load_settings(results_root=str(tmp_path))) as elsewhere:
        assert newest_figures(sample.lake, elsewhere, 3) == {}


@pytest.mark.parametrize("content", [b"", b"<html></html>", picture(1)[:60], b"GIF89a"])
def test_what_is_not_a_png_has_no_preview(content: bytes) -> None:
    assert preview_of(content) == b""


# --- the command ----------------------------------------------------------------------------


def ask(sample: Figures, *arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(
        app,
        ["figures", *arguments, "--warehouse", str(sample.warehouse)],
        env={"AIND_ETL_RESULTS_ROOT": str(sample.results), "COLUMNS": "200"},
    )
    return done.exit_code, done.output


def test_the_command_says_what_it_did(sample: Figures, tmp_path: Path) -> None:
    to = str(tmp_path / "to")
    code, said = ask(sample, to, "--date", "2024-10-24", "--agent", "WSLS")
    assert (code, "2 downloaded" in said) == (0, True)
    code, said = ask(sample, to, "--date", "2024-10-24", "--agent", "WSLS")
    assert (code, "0 downloaded" in said, "2 there already" in said) == (0, True, True)


def test_the_command_says_that_nothing_matches(sample: Figures, tmp_path: Path) -> None:
    code, said = ask(sample, str(tmp_path / "to"), "--subject", "1", "--agent", "WSLS")
    assert code == 0
    assert "No successful fit of subject 1 and agent WSLS" in said
    assert not (tmp_path / "to").exists()


def test_an_invalid_date_is_wrong_use(sample: Figures, tmp_path: Path) -> None:
    code, said = ask(sample, str(tmp_path), "--date", "24.10.2024")
    assert code == 2
    assert "24.10.2024" in said
