"""Reading the files of ``sql/``, and the order in which they run."""

import pytest

from aind_etl.errors import ConfigurationError
from aind_etl.warehouse.sql_files import Kind, SqlFile, dependencies, read_sql_files, tables_read

LAKE = {"analyses", "fit_parameters", "documents"}


def view(name, statement):
    return SqlFile(Kind.VIEW, name, "One row per thing.", statement)


# --- reading --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", Kind)
def test_every_file_has_a_comment_a_statement_and_a_summary(kind):
    files = read_sql_files(kind)
    assert files
    for file in files:
        assert file.kind is kind
        assert "--" not in file.comment
        assert file.summary.endswith(".")
        assert file.comment.startswith(file.summary.removesuffix("."))
        assert not file.statement.startswith("--")
        assert not file.statement.endswith(";")


def test_the_opening_comment_is_one_text_and_the_rest_is_the_statement(sql_folder):
    (sql_folder / "views" / "trial_counts.sql").write_text(
        "-- One row per session: how many\n-- trials. More of it.\n\n-- Not of the opening.\n"
        "SELECT 1 AS one;\n"
    )
    file = next(one for one in read_sql_files(Kind.VIEW, sql_folder) if one.name == "trial_counts")
    assert file.comment == "One row per session: how many trials. More of it."
    assert file.summary == "One row per session: how many trials."
    assert file.statement == "-- Not of the opening.\nSELECT 1 AS one"


def test_descriptions_of_columns_are_not_part_of_the_comment(sql_folder):
    (sql_folder / "marts" / "trial_counts.sql").write_text(
        "-- One row per session.\n--\n--   n_trials: Trials of the\n--     session.\n"
        "--   _id: Its id: a text.\nSELECT 1 AS n_trials, '' AS _id\n"
    )
    file = next(one for one in read_sql_files(Kind.MART, sql_folder) if one.name == "trial_counts")
    assert file.comment == "One row per session."
    assert file.columns == {"n_trials": "Trials of the session.", "_id": "Its id: a text."}
    assert file.statement == "SELECT 1 AS n_trials, '' AS _id"


def test_a_check_is_a_warning_if_its_comment_says_so():
    warnings = {file.name for file in read_sql_files(Kind.CHECK) if file.is_warning}
    assert "k_model_counts_fitted_parameters" in warnings
    assert "analyses_key_is_unique" not in warnings


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("without_comment", "SELECT 1", "must begin with a comment that says what a row is"),
        ("only_comment", "-- One row per thing.\n", "followed by SQL"),
        ("empty", "", "must begin with a comment"),
        ("two words", "-- One row per thing.\nSELECT 1", "use letters, digits and _"),
        ("1st", "-- One row per thing.\nSELECT 1", "use letters, digits and _"),
    ],
)
def test_an_invalid_file_is_named(sql_folder, name, text, words):
    path = sql_folder / "marts" / f"{name}.sql"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=words) as caught:
        read_sql_files(Kind.MART, sql_folder)
    assert str(path) in str(caught.value)


# --- which tables a query reads --------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("SELECT * FROM analyses", {"analyses"}),
        ("FROM analyses", {"analyses"}),
        ("SELECT 'documents' AS analyses FROM range(3) -- fit_parameters", set()),
        (
            "SELECT * FROM analyses JOIN fit_parameters USING (record_id)",
            {"analyses", "fit_parameters"},
        ),
        ("SELECT (SELECT count(*) FROM documents) FROM analyses", {"analyses", "documents"}),
        (
            "WITH one AS (FROM documents) FROM one UNION ALL BY NAME FROM analyses",
            {"analyses", "documents"},
        ),
        ("PIVOT fit_parameters ON parameter USING any_value(value)", {"fit_parameters"}),
        ("FROM (PIVOT analyses ON outcome USING count(*)) -- not documents", {"analyses"}),
        ('SELECT * FROM Analyses JOIN "DOCUMENTS" USING (record_id)', {"analyses", "documents"}),
        ("SELECT * FROM somewhere_else", set()),
    ],
)
def test_the_tables_a_query_reads_are_found(query, expected):
    assert tables_read(query, LAKE) == expected


# --- the order ------------------------------------------------------------------------------


def test_each_file_depends_on_those_it_reads_and_on_tables_of_the_contract():
    files = [
        view("a", "SELECT * FROM b JOIN c USING (x)"),
        view("b", "SELECT * FROM c"),
        view("c", "SELECT * FROM analyses"),
        view("d", "SELECT 1"),
    ]
    found = dependencies(files)
    assert found == {"a": {"b", "c"}, "b": {"c"}, "c": {"analyses"}, "d": set()}
    names = list(found)
    assert names.index("c") < names.index("b") < names.index("a")


def test_files_that_depend_on_each_other_in_a_cycle_are_named():
    files = [
        view("hen", "SELECT * FROM egg"),
        view("egg", "SELECT * FROM hen"),
        view("farmer", "SELECT 1"),
    ]
    with pytest.raises(ConfigurationError, match="in a cycle") as caught:
        dependencies(files)
    assert "hen → egg" in str(caught.value) or "egg → hen" in str(caught.value)
    assert "farmer" not in str(caught.value)


def test_a_file_may_have_the_name_of_a_table_within_it():
    file = view("counts", "WITH counts AS (SELECT 1) SELECT * FROM counts")
    assert dependencies([file]) == {"counts": set()}
