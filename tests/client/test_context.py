"""The page of context: short, correct, and with questions that can be run."""

import re
from pathlib import Path

import pytest

from aind_etl.client.context import COLUMNS, context_page, skill_page
from aind_etl.client.query import Query
from aind_etl.warehouse.connection import connect
from aind_etl.warehouse.sql_files import Kind, read_sql_files

CLONE = Path(__file__).parents[2]
# No model's tokenizer needs more than one token per 2.7 characters of English and SQL.
FEWEST_CHARACTERS_PER_TOKEN = 2.7
MOST_TOKENS = 6_000
QUESTIONS = read_sql_files(Kind.QUESTION)


@pytest.mark.parametrize(
    ("path", "page"), [("docs/context.md", context_page), ("skills/aind-etl/SKILL.md", skill_page)]
)
def test_the_pages_in_the_repository_are_up_to_date(path, page):
    assert (CLONE / path).read_text(encoding="utf-8") == page(), "make docs renews it"


def test_the_page_is_short_enough_for_a_conversation():
    assert len(context_page()) / FEWEST_CHARACTERS_PER_TOKEN < MOST_TOKENS


def test_every_column_of_the_page_exists(world):
    with connect(world / "warehouse.duckdb") as connection:
        columns = "SELECT table_name, list(column_name) FROM duckdb_columns() GROUP BY table_name"
        found = dict(connection.execute(columns).fetchall())
        for relation, names in COLUMNS.items():
            assert set(names.split()) <= set(found[relation]), relation
        line = next(one for one in context_page().splitlines() if one.startswith("- `sessions`"))
        listed = re.sub(r"\(.*?\)|\[.*?\]", "", line.split("of the session table ")[1].rstrip("."))
        assert {one.strip() for one in listed.split(",")} <= set(found["sessions"])


def test_there_are_ten_questions():
    assert len(QUESTIONS) == 10
    assert all("?" in question.comment for question in QUESTIONS)
    assert all(question.statement in context_page() for question in QUESTIONS)


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.name)
def test_a_question_returns_rows_of_the_sample(world, question):
    with Query(world / "warehouse.duckdb", question.statement, sandbox=True) as query:
        _, rows, _ = query.head(5)
    assert rows


def test_the_skill_has_the_header_that_agents_read():
    head = skill_page().split("---\n")[1]
    assert "name: aind-etl\n" in head
    assert "description: " in head
