"""Every column: name, type, unit, description, and its origin in each document format.

A column of several tables, such as the key, is one object. :mod:`aind_etl.contract.tables` says
which columns make up a table.

Paths
-----
A path is the dotted way from the root of a document to a value. ``[]`` stands for every
position of a list, ``*`` for every key of an object. ``processing.data_processes[]`` is the
one list whose entries become rows of their own.
"""

from dataclasses import replace
from functools import partial

from aind_etl.contract.types import Column, DataType, Origin

PROCESS = "processing.data_processes[]"
"""Path of the entries of a framework document that become rows."""

_PARAMETERS = f"{PROCESS}.code.parameters"
_OUTPUTS = f"{PROCESS}.output_parameters"

FIT = {"prototype": "analysis_results", "framework": f"{_OUTPUTS}.fitting_results"}
"""Path of the fitting results in a document of each format."""

AGENT_OPTIONS = {
    "prototype": "analysis_spec.analysis_args.agent_kwargs",
    "framework": f"{_PARAMETERS}.agent_kwargs",
}
"""Path of the agent's keyword arguments in a document of each format."""

varchar = partial(Column, type=DataType.VARCHAR)
boolean = partial(Column, type=DataType.BOOLEAN)
tinyint = partial(Column, type=DataType.TINYINT)
smallint = partial(Column, type=DataType.SMALLINT)
integer = partial(Column, type=DataType.INTEGER)
bigint = partial(Column, type=DataType.BIGINT)
double = partial(Column, type=DataType.DOUBLE)
date = partial(Column, type=DataType.DATE)
time = partial(Column, type=DataType.TIME)
timestamp = partial(Column, type=DataType.TIMESTAMPTZ)


def at(
    prototype: str | tuple[str, ...] = (), framework: str | tuple[str, ...] = (), note: str = ""
) -> dict[str, Origin]:
    """Return the origins of a value that is read from a path, or the first of several."""
    paths = {"prototype": prototype, "framework": framework}
    return {
        name: Origin((path,) if isinstance(path, str) else path, note)
        for name, path in paths.items()
    }


def derived(prototype: str = "", framework: str | None = None) -> dict[str, Origin]:
    """Return the origins of a value that is computed: how, once if it is the same in both."""
    framework = prototype if framework is None else framework
    return {"prototype": Origin((), prototype), "framework": Origin((), framework)}


def in_fit(path: str, note: str = "") -> dict[str, Origin]:
    """Return the origins of a value at ``path`` in the fitting results of either format."""
    return at(f"{FIT['prototype']}.{path}", f"{FIT['framework']}.{path}", note)


# --- the key, and what every record carries -------------------------------------------------

SOURCE_COLLECTION = varchar(
    "source_collection",
    "The collection of the `analysis` database that holds the document, one per project.",
    derived("the collection's name"),
    required=True,
    source="source_collection",
)
RECORD_ID = varchar(
    "record_id",
    "The document's `_id` as text. Unique within its collection.",
    at("_id", "_id"),
    required=True,
    source="record_id",
)
PROCESS_INDEX = smallint(
    "process_index",
    "Position of the analysis process in its document, from 0.",
    derived("0", f"position in `{PROCESS[:-2]}`"),
    required=True,
)
KEY = (SOURCE_COLLECTION, RECORD_ID, PROCESS_INDEX)

CONTENT_HASH = varchar(
    "content_hash",
    "SHA-256 of the canonical document, as 64 hexadecimal digits: equal hashes, equal contents.",
    derived("of the canonical document"),
    required=True,
    source="content_hash",
)
EXTRACTED_AT = timestamp(
    "extracted_at",
    "When this version of the document was read from the source.",
    derived("time of the extraction"),
    required=True,
    source="extracted_at",
)

# --- analyses -------------------------------------------------------------------------------

FOLD_MEASURES = {
    "prediction_accuracy_test": "prediction accuracy on held-out trials",
    "prediction_accuracy_fit": "prediction accuracy on the trials fitted to",
    "prediction_accuracy_test_bias_only": (
        "accuracy on held-out trials of always predicting the side chosen more often"
    ),
    "LPT_test": "likelihood per trial on held-out trials",
    "LPT_fit": "likelihood per trial on the trials fitted to",
}
"""The lists with one value per fold of the cross-validation, and what the values mean."""

ANALYSES = (
    *KEY,
    varchar(
        "pipeline_format",
        "Format of the document: `prototype` (the older, flat one) or `framework` (the newer, "
        "nested one).",
        derived("`prototype`", "`framework`"),
        required=True,
    ),
    varchar(
        "analysis_name",
        "Name of the analysis, such as `MLE fitting`.",
        at("analysis_spec.analysis_name", f"{_PARAMETERS}.analysis_name"),
    ),
    varchar(
        "analysis_version",
        "The version or tag of the analysis. It grows with every release of a pipeline.",
        at(
            "analysis_spec.analysis_ver",
            (f"{_PARAMETERS}.analysis_tag", f"{_PARAMETERS}.analysis_ver"),
        ),
    ),
    varchar("process_name", "Name of the analysis process.", at(framework=f"{PROCESS}.name")),
    varchar(
        "record_name",
        "Name of the document: a hash of its code block, and the last part of its result location.",
        at(framework="name"),
    ),
    varchar(
        "subject_id",
        "The subject (mouse), six digits as text.",
        at("subject_id", f"{_OUTPUTS}.subject_id"),
    ),
    date(
        "session_date",
        "Day of the behaviour session, in the rig's local time.",
        at("session_date", f"{_OUTPUTS}.session_date"),
    ),
    time(
        "session_time",
        "Time of day the behaviour session began, in the rig's local time. NULL if the NWB name "
        "has none.",
        derived("from `nwb_name`"),
    ),
    varchar(
        "session_key",
        "Identity of the behaviour session: `<subject>_<date>[_<HH-MM-SS>]`. The same for every "
        "pipeline and every spelling of the NWB name.",
        derived("from `nwb_name`, without prefix and suffix; else from subject and date"),
    ),
    varchar(
        "nwb_name",
        "Name of the NWB file that the analysis read, as the writer gave it.",
        at("nwb_name", f"{_OUTPUTS}.nwb_name"),
    ),
    varchar(
        "status",
        "How the analysis ended, in the writer's own words.",
        at("status", f"{_OUTPUTS}.additional_info"),
    ),
    varchar(
        "outcome",
        "How the analysis ended: `success`, `skipped`, `failed` or `unknown`.",
        derived("from `status`"),
        required=True,
    ),
    timestamp(
        "started_at",
        "When the analysis began. Times without a zone are UTC.",
        at(framework=f"{PROCESS}.start_date_time"),
    ),
    timestamp(
        "finished_at",
        "When the analysis ended. Times without a zone are UTC.",
        at("analysis_datetime", f"{PROCESS}.end_date_time"),
    ),
    double(
        "duration_seconds",
        "How long the analysis took.",
        at("analysis_time_spent_in_sec")
        | {"framework": Origin(note="`finished_at` − `started_at`")},
        unit="s",
    ),
    varchar(
        "result_location",
        "The folder of the result files, as an `s3://` address.",
        at("s3_location", "location"),
    ),
    varchar(
        "result_url", "The same folder as an `https://` address.", derived("from `result_location`")
    ),
    varchar(
        "agent_alias",
        "The fitted agent (model), such as `QLearning_L2F1_CK1_softmax`.",
        in_fit(
            "fit_settings.agent_alias",
            note="without a fit, from the specification's agent class and keyword arguments",
        ),
    ),
    varchar(
        "agent_class",
        "Class of the agent in the model library, such as `ForagerQLearning`.",
        at(
            (
                f"{FIT['prototype']}.fit_settings.agent_class_name",
                "analysis_spec.analysis_args.agent_class",
            ),
            (f"{FIT['framework']}.fit_settings.agent_class_name", f"{_PARAMETERS}.agent_class"),
        ),
    ),
    integer(
        "n_trials",
        "Number of valid trials: those in which the subject chose.",
        in_fit("n_trials"),
        unit="trials",
    ),
    integer("k_model", "Number of fitted parameters k.", in_fit("k_model")),
    double(
        "log_likelihood",
        "Natural logarithm of the likelihood LL of all choices under the fitted agent. A choice "
        "of probability zero counts as ln(1e-16).",
        in_fit("log_likelihood"),
        unit="nat",
    ),
    double(
        "aic", "Akaike information criterion, 2k − 2LL. Lower is better.", in_fit("AIC"), unit="nat"
    ),
    double(
        "bic",
        "Bayesian information criterion, k·ln(n_trials) − 2LL. Lower is better.",
        in_fit("BIC"),
        unit="nat",
    ),
    double(
        "lpt",
        "Likelihood per trial, exp(LL / n_trials), from 0 to 1. Higher is better.",
        in_fit("LPT"),
    ),
    double(
        "lpt_aic",
        "Likelihood per trial with AIC's penalty, exp(−AIC / (2·n_trials)), from 0 to 1.",
        in_fit("LPT_AIC"),
    ),
    double(
        "lpt_bic",
        "Likelihood per trial with BIC's penalty, exp(−BIC / (2·n_trials)), from 0 to 1.",
        in_fit("LPT_BIC"),
    ),
    double(
        "prediction_accuracy",
        "Share of trials whose choice the fitted agent held more probable, from 0 to 1.",
        in_fit("prediction_accuracy"),
    ),
    integer(
        "cv_folds",
        "Number of folds of the cross-validation. NULL if there was none.",
        derived("length of the cross-validation lists"),
    ),
    *(
        double(
            f"{name.lower()}_{statistic}",
            f"{words} of the {meaning} over the folds.",
            derived(f"from `cross_validation.{name}`"),
        )
        for name, meaning in FOLD_MEASURES.items()
        for statistic, words in (
            ("mean", "Mean"),
            ("std", "Standard deviation (n in the denominator)"),
        )
    ),
    boolean(
        "fit_converged",
        "Whether the optimizer reported convergence. Not the outcome of the analysis.",
        in_fit("success"),
    ),
    integer(
        "n_function_evaluations", "Evaluations of the likelihood by the optimizer.", in_fit("nfev")
    ),
    integer("n_iterations", "Iterations of the optimizer.", in_fit("nit")),
    varchar(
        "model_library_version",
        "Version of the model library `aind_dynamic_foraging_models` that fitted.",
        at(prototype="analysis_libs_to_track_ver.aind_dynamic_foraging_models"),
    ),
    varchar(
        "code_url", "Where the analysis code is published.", at(framework=f"{PROCESS}.code.url")
    ),
    varchar(
        "code_version",
        "Version (commit) of the analysis code.",
        at(framework=f"{PROCESS}.code.version"),
    ),
    varchar(
        "schema_version",
        "Version of the document's metadata schema.",
        at(framework="schema_version"),
    ),
    varchar(
        "input_asset_url",
        "The data asset that the record was computed from. Some writers also list the inputs of "
        "earlier jobs; the record's own is the last.",
        derived(framework=f"the last of `{PROCESS}.code.input_data`"),
    ),
    integer(
        "n_attributes",
        "Number of rows with this key in `attributes`.",
        derived("counted"),
        required=True,
    ),
    integer(
        "n_rejected_values",
        "Number of rows with this key in `rejected_values`: values that do not fit their column, "
        "which is NULL. Values outside the processes count for the first process.",
        derived("counted"),
        required=True,
    ),
    CONTENT_HASH,
    timestamp(
        "first_seen_at",
        "When the record was first read from the source.",
        derived("first extraction of the record"),
        required=True,
        source="extracted_at",
    ),
    timestamp(
        "changed_at",
        "When the record's current content was first read from the source.",
        derived("extraction of its current content"),
        required=True,
        source="extracted_at",
    ),
)

# --- children of analyses -------------------------------------------------------------------

FIT_PARAMETERS = (
    *KEY,
    varchar(
        "parameter",
        "Name of the agent's parameter, such as `learn_rate`.",
        in_fit("fit_settings.fit_names[]", note="then the clamped ones, all of `params`"),
        required=True,
    ),
    double(
        "value",
        "The parameter's value: fitted, or the fixed value of a clamped parameter.",
        in_fit("params.*"),
    ),
    boolean(
        "is_fitted",
        "Whether the parameter was fitted; false for a clamped (fixed) one.",
        derived("whether `fit_settings.fit_names` has the parameter"),
    ),
    double(
        "lower_bound",
        "Lower bound of the search for a fitted parameter.",
        in_fit("fit_settings.lower_bounds[]"),
    ),
    double(
        "upper_bound",
        "Upper bound of the search for a fitted parameter.",
        in_fit("fit_settings.upper_bounds[]"),
    ),
    boolean(
        "at_bound",
        "Whether a fitted value is at one of its bounds, within a millionth of the distance "
        "between them.",
        derived("from value and bounds"),
    ),
    double(
        "value_without_polishing",
        "The value before the optimizer's last, local step.",
        in_fit("params_without_polishing.*"),
    ),
)

CROSS_VALIDATION = (
    *KEY,
    smallint(
        "fold",
        "Number of the fold, from 0.",
        derived("position in the cross-validation lists"),
        required=True,
    ),
    *(
        double(
            name.lower(),
            f"{meaning[0].upper()}{meaning[1:]}, from 0 to 1.",
            in_fit(f"cross_validation.{name}[]"),
        )
        for name, meaning in FOLD_MEASURES.items()
    ),
)

INPUT_ASSETS = (
    *KEY,
    smallint(
        "position",
        "Position in the list of inputs, from 0. The last is the record's own.",
        derived(framework="position in `code.input_data`"),
        required=True,
    ),
    varchar("url", "Address of the data asset.", at(framework=f"{PROCESS}.code.input_data[].url")),
)

ATTRIBUTES = (
    *KEY,
    varchar(
        "section",
        "Where in the document the value is: `parameters` of the analysis, its `outputs`, or "
        "elsewhere in the `record`.",
        derived(
            "`analysis_spec.analysis_args` are parameters, `analysis_results` outputs, all else "
            "record",
            "`code.parameters` are parameters, `output_parameters` outputs, all else record",
        ),
        required=True,
    ),
    varchar(
        "path",
        "The value's dotted path within its section, with list positions in brackets.",
        derived("of every scalar that no other column holds"),
        required=True,
    ),
    varchar(
        "value_text",
        "The value, if it is a text; the digits of an integer beyond 2^53.",
        derived("text, or an integer beyond 2^53"),
    ),
    double("value_number", "The value, if it is a number.", derived("number")),
    boolean("value_boolean", "The value, if it is a boolean.", derived("boolean")),
)

# --- from the result folders ----------------------------------------------------------------

ETAG = varchar(
    "etag", "The store's ETag, which changes with the content.", derived("from the store")
)

LOCATION = varchar(
    "location", "The result folder's `s3://` address, without a trailing slash.", required=True
)
FOLDER_FILES = integer("n_files", "Number of files in the folder.", unit="files")
FOLDER_SIZE = bigint("size_bytes", "Size of all files in the folder.", unit="byte")
FOLDER_CHECKED_AT = timestamp(
    "checked_at",
    "When the folder was first found in this state; later checks found no change.",
    required=True,
)

RESULT_FOLDERS = (
    *KEY,
    LOCATION,
    varchar(
        "status",
        "`listed`: it has files; `missing`: nothing is at its address; `refused`: the store denies "
        "access; `too_many_files`: it has more files than a record can have; `unreachable`: "
        "listing failed and will be retried.",
        required=True,
    ),
    FOLDER_FILES,
    FOLDER_SIZE,
    varchar("message", "The store's error message, if the folder could not be listed."),
    FOLDER_CHECKED_AT,
)

UNCLAIMED_FOLDERS = (
    SOURCE_COLLECTION,
    LOCATION,
    FOLDER_FILES,
    FOLDER_SIZE,
    timestamp("last_modified", "When the newest of its files was written."),
    FOLDER_CHECKED_AT,
)

RESULT_FILES = (
    *KEY,
    varchar("file_name", "Path of the file within the result folder.", required=True),
    bigint("size_bytes", "Size of the file.", unit="byte"),
    ETAG,
    timestamp("last_modified", "When the file was written."),
    varchar("url", "The file's `https://` address."),
    timestamp(
        "checked_at", "When the file was first found in this state; later checks found no change."
    ),
)

TRIALS = (
    *KEY,
    integer(
        "trial",
        "Ordinal of the valid trial, from 0. The last row is the state after the last trial.",
        required=True,
    ),
    tinyint("choice", "Side chosen: 0 left, 1 right."),
    boolean("reward", "Whether the choice was rewarded."),
    double("q_left", "Value of the left side before the trial."),
    double("q_right", "Value of the right side before the trial."),
    double("choice_kernel_left", "Choice kernel of the left side before the trial."),
    double("choice_kernel_right", "Choice kernel of the right side before the trial."),
    double("choice_prob_left", "Probability of choosing left, from 0 to 1."),
    double("choice_prob_right", "Probability of choosing right, from 0 to 1."),
    double("value", "Value of exploiting before the trial (compare-to-threshold agents)."),
    double("threshold", "Threshold the value is compared to (compare-to-threshold agents)."),
    double("p_exploit", "Probability of exploiting (compare-to-threshold agents)."),
    boolean(
        "exploiting",
        "The simulator's random draw of exploiting; not an estimate (compare-to-threshold agents).",
    ),
    double("loss_count", "Losses in a row before the trial (loss-counting agents)."),
    double("rpe", "Reward-prediction error: reward − value of the chosen side before the trial."),
)

ANALYSES_LATENTS = (
    *KEY,
    integer("n_trials", "Number of valid trials in the result file.", unit="trials"),
    double(
        "q_value_spread",
        "Entropy of a 100-bin histogram of all Q values over [0, 1], divided by log2(100).",
    ),
    varchar("source_file", "The result file the trials were read from."),
    ETAG,
    timestamp("extracted_at", "When the result file was read."),
)

OTHER_LATENTS = (
    *KEY,
    integer("trial", "Ordinal of the valid trial, from 0.", required=True),
    varchar("name", "Name of the latent variable.", required=True),
    smallint("position", "Row of a two-row variable, from 0.", required=True),
    double("value", "Value of the latent variable."),
)

REJECTED_RESULTS = (
    *KEY,
    varchar("source_file", "The result file that could not be loaded.", required=True),
    ETAG,
    varchar("reason", "Why it could not be loaded, as a short code.", required=True),
    varchar("path", "Where in the file the problem is."),
    varchar("message", "What was found, what was expected, and what to do.", required=True),
    timestamp("checked_at", "When the file was last requested.", required=True),
)

# --- the change log, the rejected, the sessions, the collections ------------------------------

DOCUMENTS = (
    SOURCE_COLLECTION,
    RECORD_ID,
    varchar(
        "document",
        "The document as canonical JSON: keys sorted, no white space. NULL for a deletion.",
    ),
    replace(CONTENT_HASH, required=False),
    varchar(
        "operation",
        "`upsert`: the document has this content from now on; `delete`: it is gone.",
        required=True,
    ),
    bigint(
        "batch_id",
        "Number of the batch that added the version; later versions have higher numbers.",
        required=True,
    ),
    EXTRACTED_AT,
)

REJECTED_VALUES = (
    *KEY,
    varchar("path", "Where the value is in the document.", required=True),
    varchar("reason", "Why the value does not fit, as a short code.", required=True),
    varchar("value", "The value as JSON, at most 1,000 characters of it.", required=True),
    varchar("expected", "What fits the column, in words.", required=True),
    CONTENT_HASH,
    EXTRACTED_AT,
)

REJECTED_DOCUMENTS = (
    SOURCE_COLLECTION,
    RECORD_ID,
    varchar("reason", "Why the document has no row, as a short code.", required=True),
    varchar("path", "Where in the document the problem is."),
    varchar("message", "What was found, what was expected, and what to do.", required=True),
    CONTENT_HASH,
    EXTRACTED_AT,
)

SESSIONS = (
    varchar(
        "session_key",
        "Identity of the behaviour session, as in `analyses`; NULL where the session table names "
        "no subject or no day.",
    ),
    varchar("subject_id", "The subject (mouse), six digits as text."),
    date("session_date", "Day of the behaviour session, in the rig's local time."),
)

PRINCIPAL_INVESTIGATOR = varchar("principal_investigator", "Who is responsible for the subject.")
ADDED_SESSION_COLUMNS = (
    PRINCIPAL_INVESTIGATOR,
    varchar(
        "other_rows",
        "The further rows that the session table has of this session, as a list in JSON; NULL "
        "where there is one only. The row with the most finished trials is kept.",
    ),
)
"""Columns that `sessions` has in addition to those of the session table."""

COLLECTIONS = (
    SOURCE_COLLECTION,
    varchar("source", "The source that was last read, without credentials."),
    bigint("live_documents", "Documents in the source at the last extraction."),
    bigint("rejected_documents", "Those of them without a row of `analyses`."),
    bigint("deleted_documents", "Documents that were deleted from the source."),
    bigint("prototype_documents", "Flattened documents of the prototype format."),
    bigint("framework_documents", "Flattened documents of the framework format."),
    bigint("successful_analyses", "Analyses with the outcome `success`."),
    bigint("skipped_analyses", "Analyses with the outcome `skipped`."),
    bigint("failed_analyses", "Analyses with the outcome `failed`."),
    bigint("unknown_analyses", "Analyses with the outcome `unknown`."),
    timestamp("newest_finished_at", "When the newest analysis ended."),
    timestamp(
        "last_new_pass_at",
        "When the last *new* pass over the collection ended, as of the warehouse's build.",
    ),
    timestamp(
        "last_full_pass_at",
        "When the last *full* pass over the collection ended, as of the warehouse's build.",
    ),
)

# --- known, and left in the documents -------------------------------------------------------

LEFT_IN_DOCUMENTS: dict[str, str] = {
    "fitted_latent_variables": "trial-by-trial variables; the table `trials` holds them",
    "fit_settings.fit_choice_history": "the choices fitted to; the table `trials` holds them",
    "fit_settings.fit_reward_history": "the rewards fitted to; the table `trials` holds them",
    "population": "the optimizer's last population of candidates",
    "population_energies": "the costs of the optimizer's last population",
}
"""Large parts of untrimmed fitting results that do not become attributes, with the reason.

Paths are relative to the fitting results. The values stay in the change log."""
