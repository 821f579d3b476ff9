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
from typing import TypedDict

from aind_etl.contract.types import Column, DataType, Origin

PROCESS = "processing.data_processes[]"
"""Path of the entries of a framework document that become rows."""

FIT = {
    "prototype": "analysis_results",
    "framework": f"{PROCESS}.output_parameters.fitting_results",
}
"""Path of the fitting results in a document of each format."""

AGENT_OPTIONS = {
    "prototype": "analysis_spec.analysis_args.agent_kwargs",
    "framework": f"{PROCESS}.code.parameters.agent_kwargs",
}
"""Path of the agent's keyword arguments in a document of each format."""


class Origins(TypedDict):
    """The origins in both formats, as keyword arguments of :class:`Column`."""

    prototype: Origin
    framework: Origin


def at(*paths: str, note: str = "") -> Origin:
    """Return the origin that reads the first of ``paths`` that has a value."""
    return Origin(paths, note)


def derived(note: str) -> Origin:
    """Return the origin of a value that is computed as ``note`` describes."""
    return Origin((), note)


def both(note: str) -> Origins:
    """Return the origins of a value that is computed in the same way in both formats."""
    return {"prototype": derived(note), "framework": derived(note)}


def in_fit(path: str, note: str = "") -> Origins:
    """Return the origins of a value at ``path`` in the fitting results of either format."""
    return {
        "prototype": at(f"{FIT['prototype']}.{path}", note=note),
        "framework": at(f"{FIT['framework']}.{path}", note=note),
    }


V, D, I = DataType.VARCHAR, DataType.DOUBLE, DataType.INTEGER  # noqa: E741

# --- the key, and what every record carries -------------------------------------------------

SOURCE_COLLECTION = Column(
    "source_collection",
    V,
    "The collection of the `analysis` database that holds the document, one per project.",
    **both("the collection's name"),
    required=True,
    source="source_collection",
)
RECORD_ID = Column(
    "record_id",
    V,
    "The document's `_id` as text. Unique within its collection.",
    prototype=at("_id"),
    framework=at("_id"),
    required=True,
    source="record_id",
)
PROCESS_INDEX = Column(
    "process_index",
    DataType.SMALLINT,
    "Position of the analysis process in its document, from 0.",
    prototype=derived("0"),
    framework=derived(f"position in `{PROCESS[:-2]}`"),
    required=True,
)
KEY = (SOURCE_COLLECTION, RECORD_ID, PROCESS_INDEX)

CONTENT_HASH = Column(
    "content_hash",
    V,
    "SHA-256 of the canonical document, as 64 hexadecimal digits: equal hashes, equal contents.",
    **both("of the canonical document"),
    required=True,
    source="content_hash",
)
EXTRACTED_AT = Column(
    "extracted_at",
    DataType.TIMESTAMPTZ,
    "When this version of the document was read from the source.",
    **both("time of the extraction"),
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
    Column(
        "pipeline_format",
        V,
        "Format of the document: `prototype` (the older, flat one) or `framework` (the newer, "
        "nested one).",
        prototype=derived("`prototype`"),
        framework=derived("`framework`"),
        required=True,
    ),
    Column(
        "analysis_name",
        V,
        "Name of the analysis, such as `MLE fitting`.",
        prototype=at("analysis_spec.analysis_name"),
        framework=at(f"{PROCESS}.code.parameters.analysis_name"),
    ),
    Column(
        "analysis_version",
        V,
        "The version or tag of the analysis. It grows with every release of a pipeline.",
        prototype=at("analysis_spec.analysis_ver"),
        framework=at(
            f"{PROCESS}.code.parameters.analysis_tag", f"{PROCESS}.code.parameters.analysis_ver"
        ),
    ),
    Column(
        "process_name",
        V,
        "Name of the analysis process.",
        framework=at(f"{PROCESS}.name"),
    ),
    Column(
        "record_name",
        V,
        "Name of the document: a hash of its code block, and the last part of its result location.",
        framework=at("name"),
    ),
    Column(
        "subject_id",
        V,
        "The subject (mouse), six digits as text.",
        prototype=at("subject_id"),
        framework=at(f"{PROCESS}.output_parameters.subject_id"),
    ),
    Column(
        "session_date",
        DataType.DATE,
        "Day of the behaviour session, in the rig's local time.",
        prototype=at("session_date"),
        framework=at(f"{PROCESS}.output_parameters.session_date"),
    ),
    Column(
        "session_time",
        DataType.TIME,
        "Time of day the behaviour session began, in the rig's local time. NULL if the NWB name "
        "has none.",
        **both("from `nwb_name`"),
    ),
    Column(
        "session_key",
        V,
        "Identity of the behaviour session: `<subject>_<date>[_<HH-MM-SS>]`. The same for every "
        "pipeline and every spelling of the NWB name.",
        **both("from `nwb_name`, without prefix and suffix; else from subject and date"),
    ),
    Column(
        "nwb_name",
        V,
        "Name of the NWB file that the analysis read, as the writer gave it.",
        prototype=at("nwb_name"),
        framework=at(f"{PROCESS}.output_parameters.nwb_name"),
    ),
    Column(
        "status",
        V,
        "How the analysis ended, in the writer's own words.",
        prototype=at("status"),
        framework=at(f"{PROCESS}.output_parameters.additional_info"),
    ),
    Column(
        "outcome",
        V,
        "How the analysis ended: `success`, `skipped`, `failed` or `unknown`.",
        **both("from `status`"),
        required=True,
    ),
    Column(
        "started_at",
        DataType.TIMESTAMPTZ,
        "When the analysis began. Times without a zone are UTC.",
        framework=at(f"{PROCESS}.start_date_time"),
    ),
    Column(
        "finished_at",
        DataType.TIMESTAMPTZ,
        "When the analysis ended. Times without a zone are UTC.",
        prototype=at("analysis_datetime"),
        framework=at(f"{PROCESS}.end_date_time"),
    ),
    Column(
        "duration_seconds",
        D,
        "How long the analysis took.",
        unit="s",
        prototype=at("analysis_time_spent_in_sec"),
        framework=derived("`finished_at` − `started_at`"),
    ),
    Column(
        "result_location",
        V,
        "The folder of the result files, as an `s3://` address.",
        prototype=at("s3_location"),
        framework=at("location"),
    ),
    Column(
        "result_url",
        V,
        "The same folder as an `https://` address.",
        **both("from `result_location`"),
    ),
    Column(
        "agent_alias",
        V,
        "The fitted agent (model), such as `QLearning_L2F1_CK1_softmax`.",
        **in_fit(
            "fit_settings.agent_alias",
            note="without a fit, from the specification's agent class and keyword arguments",
        ),
    ),
    Column(
        "agent_class",
        V,
        "Class of the agent in the model library, such as `ForagerQLearning`.",
        prototype=at(
            f"{FIT['prototype']}.fit_settings.agent_class_name",
            "analysis_spec.analysis_args.agent_class",
        ),
        framework=at(
            f"{FIT['framework']}.fit_settings.agent_class_name",
            f"{PROCESS}.code.parameters.agent_class",
        ),
    ),
    Column(
        "n_trials",
        I,
        "Number of valid trials: those in which the subject chose.",
        unit="trials",
        **in_fit("n_trials"),
    ),
    Column(
        "k_model",
        I,
        "Number of fitted parameters k.",
        **in_fit("k_model"),
    ),
    Column(
        "log_likelihood",
        D,
        "Natural logarithm of the likelihood LL of all choices under the fitted agent. A choice "
        "of probability zero counts as ln(1e-16).",
        unit="nat",
        **in_fit("log_likelihood"),
    ),
    Column(
        "aic",
        D,
        "Akaike information criterion, 2k − 2LL. Lower is better.",
        unit="nat",
        **in_fit("AIC"),
    ),
    Column(
        "bic",
        D,
        "Bayesian information criterion, k·ln(n_trials) − 2LL. Lower is better.",
        unit="nat",
        **in_fit("BIC"),
    ),
    Column(
        "lpt",
        D,
        "Likelihood per trial, exp(LL / n_trials), from 0 to 1. Higher is better.",
        **in_fit("LPT"),
    ),
    Column(
        "lpt_aic",
        D,
        "Likelihood per trial with AIC's penalty, exp(−AIC / (2·n_trials)), from 0 to 1.",
        **in_fit("LPT_AIC"),
    ),
    Column(
        "lpt_bic",
        D,
        "Likelihood per trial with BIC's penalty, exp(−BIC / (2·n_trials)), from 0 to 1.",
        **in_fit("LPT_BIC"),
    ),
    Column(
        "prediction_accuracy",
        D,
        "Share of trials whose choice the fitted agent held more probable, from 0 to 1.",
        **in_fit("prediction_accuracy"),
    ),
    Column(
        "cv_folds",
        I,
        "Number of folds of the cross-validation. NULL if there was none.",
        **both("length of the cross-validation lists"),
    ),
    *(
        Column(
            f"{name.lower()}_{statistic}",
            D,
            f"{words} of the {meaning} over the folds.",
            **both(f"from `cross_validation.{name}`"),
        )
        for name, meaning in FOLD_MEASURES.items()
        for statistic, words in (
            ("mean", "Mean"),
            ("std", "Standard deviation (n in the denominator)"),
        )
    ),
    Column(
        "fit_converged",
        DataType.BOOLEAN,
        "Whether the optimizer reported convergence. Not the outcome of the analysis.",
        **in_fit("success"),
    ),
    Column(
        "n_function_evaluations",
        I,
        "Evaluations of the likelihood by the optimizer.",
        **in_fit("nfev"),
    ),
    Column(
        "n_iterations",
        I,
        "Iterations of the optimizer.",
        **in_fit("nit"),
    ),
    Column(
        "model_library_version",
        V,
        "Version of the model library `aind_dynamic_foraging_models` that fitted.",
        prototype=at("analysis_libs_to_track_ver.aind_dynamic_foraging_models"),
    ),
    Column(
        "code_url",
        V,
        "Where the analysis code is published.",
        framework=at(f"{PROCESS}.code.url"),
    ),
    Column(
        "code_version",
        V,
        "Version (commit) of the analysis code.",
        framework=at(f"{PROCESS}.code.version"),
    ),
    Column(
        "schema_version",
        V,
        "Version of the document's metadata schema.",
        framework=at("schema_version"),
    ),
    Column(
        "input_asset_url",
        V,
        "The data asset that the record was computed from. Some writers also list the inputs of "
        "earlier jobs; the record's own is the last.",
        framework=derived(f"the last of `{PROCESS}.code.input_data`"),
    ),
    Column(
        "n_attributes",
        I,
        "Number of rows with this key in `attributes`.",
        **both("counted"),
        required=True,
    ),
    Column(
        "n_rejected_values",
        I,
        "Number of rows with this key in `rejected_values`: values that do not fit their column, "
        "which is NULL. Values outside the processes count for the first process.",
        **both("counted"),
        required=True,
    ),
    CONTENT_HASH,
    Column(
        "first_seen_at",
        DataType.TIMESTAMPTZ,
        "When the record was first read from the source.",
        **both("first extraction of the record"),
        required=True,
        source="extracted_at",
    ),
    Column(
        "changed_at",
        DataType.TIMESTAMPTZ,
        "When the record's current content was first read from the source.",
        **both("extraction of its current content"),
        required=True,
        source="extracted_at",
    ),
)

# --- children of analyses -------------------------------------------------------------------

FIT_PARAMETERS = (
    *KEY,
    Column(
        "parameter",
        V,
        "Name of the agent's parameter, such as `learn_rate`.",
        **in_fit("fit_settings.fit_names[]", note="then the clamped ones, all of `params`"),
        required=True,
    ),
    Column(
        "value",
        D,
        "The parameter's value: fitted, or the fixed value of a clamped parameter.",
        **in_fit("params.*"),
    ),
    Column(
        "is_fitted",
        DataType.BOOLEAN,
        "Whether the parameter was fitted; false for a clamped (fixed) one.",
        **both("whether `fit_settings.fit_names` has the parameter"),
    ),
    Column(
        "lower_bound",
        D,
        "Lower bound of the search for a fitted parameter.",
        **in_fit("fit_settings.lower_bounds[]"),
    ),
    Column(
        "upper_bound",
        D,
        "Upper bound of the search for a fitted parameter.",
        **in_fit("fit_settings.upper_bounds[]"),
    ),
    Column(
        "at_bound",
        DataType.BOOLEAN,
        "Whether a fitted value is at one of its bounds, within a millionth of the distance "
        "between them.",
        **both("from value and bounds"),
    ),
    Column(
        "value_without_polishing",
        D,
        "The value before the optimizer's last, local step.",
        **in_fit("params_without_polishing.*"),
    ),
)

CROSS_VALIDATION = (
    *KEY,
    Column(
        "fold",
        DataType.SMALLINT,
        "Number of the fold, from 0.",
        **both("position in the cross-validation lists"),
        required=True,
    ),
    *(
        Column(
            name.lower(),
            D,
            f"{meaning[0].upper()}{meaning[1:]}, from 0 to 1.",
            **in_fit(f"cross_validation.{name}[]"),
        )
        for name, meaning in FOLD_MEASURES.items()
    ),
)

INPUT_ASSETS = (
    *KEY,
    Column(
        "position",
        DataType.SMALLINT,
        "Position in the list of inputs, from 0. The last is the record's own.",
        framework=derived("position in `code.input_data`"),
        required=True,
    ),
    Column(
        "url",
        V,
        "Address of the data asset.",
        framework=at(f"{PROCESS}.code.input_data[].url"),
    ),
)

ATTRIBUTES = (
    *KEY,
    Column(
        "section",
        V,
        "Where in the document the value is: `parameters` of the analysis, its `outputs`, or "
        "elsewhere in the `record`.",
        prototype=derived(
            "`analysis_spec.analysis_args` are parameters, `analysis_results` outputs, all else "
            "record"
        ),
        framework=derived(
            "`code.parameters` are parameters, `output_parameters` outputs, all else record"
        ),
        required=True,
    ),
    Column(
        "path",
        V,
        "The value's dotted path within its section, with list positions in brackets.",
        **both("of every scalar that no other column holds"),
        required=True,
    ),
    Column(
        "value_text",
        V,
        "The value, if it is a text; the digits of an integer beyond 2^53.",
        **both("text, or an integer beyond 2^53"),
    ),
    Column("value_number", D, "The value, if it is a number.", **both("number")),
    Column("value_boolean", DataType.BOOLEAN, "The value, if it is a boolean.", **both("boolean")),
)

# --- from the result folders ----------------------------------------------------------------

ETAG = Column(
    "etag", V, "The store's ETag, which changes with the content.", **both("from the store")
)

LOCATION = Column(
    "location",
    V,
    "The result folder's `s3://` address, without a trailing slash.",
    required=True,
)
FOLDER_FILES = Column("n_files", I, "Number of files in the folder.", unit="files")
FOLDER_SIZE = Column("size_bytes", DataType.BIGINT, "Size of all files in the folder.", unit="byte")
FOLDER_CHECKED_AT = Column(
    "checked_at",
    DataType.TIMESTAMPTZ,
    "When the folder was first found in this state; later checks found no change.",
    required=True,
)

RESULT_FOLDERS = (
    *KEY,
    LOCATION,
    Column(
        "status",
        V,
        "`listed`: it has files; `missing`: nothing is at its address; `refused`: the store denies "
        "access; `too_many_files`: it has more files than a record can have; `unreachable`: "
        "listing failed and will be retried.",
        required=True,
    ),
    FOLDER_FILES,
    FOLDER_SIZE,
    Column("message", V, "The store's error message, if the folder could not be listed."),
    FOLDER_CHECKED_AT,
)

UNCLAIMED_FOLDERS = (
    SOURCE_COLLECTION,
    LOCATION,
    FOLDER_FILES,
    FOLDER_SIZE,
    Column("last_modified", DataType.TIMESTAMPTZ, "When the newest of its files was written."),
    FOLDER_CHECKED_AT,
)

RESULT_FILES = (
    *KEY,
    Column("file_name", V, "Path of the file within the result folder.", required=True),
    Column("size_bytes", DataType.BIGINT, "Size of the file.", unit="byte"),
    ETAG,
    Column("last_modified", DataType.TIMESTAMPTZ, "When the file was written."),
    Column("url", V, "The file's `https://` address."),
    Column(
        "checked_at",
        DataType.TIMESTAMPTZ,
        "When the file was first found in this state; later checks found no change.",
    ),
)

TRIALS = (
    *KEY,
    Column(
        "trial",
        I,
        "Ordinal of the valid trial, from 0. The last row is the state after the last trial.",
        required=True,
    ),
    Column("choice", DataType.TINYINT, "Side chosen: 0 left, 1 right."),
    Column("reward", DataType.BOOLEAN, "Whether the choice was rewarded."),
    Column("q_left", D, "Value of the left side before the trial."),
    Column("q_right", D, "Value of the right side before the trial."),
    Column("choice_kernel_left", D, "Choice kernel of the left side before the trial."),
    Column("choice_kernel_right", D, "Choice kernel of the right side before the trial."),
    Column("choice_prob_left", D, "Probability of choosing left, from 0 to 1."),
    Column("choice_prob_right", D, "Probability of choosing right, from 0 to 1."),
    Column("value", D, "Value of exploiting before the trial (compare-to-threshold agents)."),
    Column("threshold", D, "Threshold the value is compared to (compare-to-threshold agents)."),
    Column("p_exploit", D, "Probability of exploiting (compare-to-threshold agents)."),
    Column(
        "exploiting",
        DataType.BOOLEAN,
        "The simulator's random draw of exploiting; not an estimate (compare-to-threshold agents).",
    ),
    Column("loss_count", D, "Losses in a row before the trial (loss-counting agents)."),
    Column(
        "rpe",
        D,
        "Reward-prediction error: reward − value of the chosen side before the trial.",
    ),
)

ANALYSES_LATENTS = (
    *KEY,
    Column("n_trials", I, "Number of valid trials in the result file.", unit="trials"),
    Column(
        "q_value_spread",
        D,
        "Entropy of a 100-bin histogram of all Q values over [0, 1], divided by log2(100).",
    ),
    Column("source_file", V, "The result file the trials were read from."),
    ETAG,
    Column("extracted_at", DataType.TIMESTAMPTZ, "When the result file was read."),
)

OTHER_LATENTS = (
    *KEY,
    Column("trial", I, "Ordinal of the valid trial, from 0.", required=True),
    Column("name", V, "Name of the latent variable.", required=True),
    Column(
        "position",
        DataType.SMALLINT,
        "Row of a two-row variable, from 0.",
        required=True,
    ),
    Column("value", D, "Value of the latent variable."),
)

REJECTED_RESULTS = (
    *KEY,
    Column("source_file", V, "The result file that could not be loaded.", required=True),
    ETAG,
    Column("reason", V, "Why it could not be loaded, as a short code.", required=True),
    Column("path", V, "Where in the file the problem is."),
    Column("message", V, "What was found, what was expected, and what to do.", required=True),
    Column("checked_at", DataType.TIMESTAMPTZ, "When the file was last requested.", required=True),
)

# --- the change log, the rejected, the sessions, the collections ------------------------------

DOCUMENTS = (
    SOURCE_COLLECTION,
    RECORD_ID,
    Column(
        "document",
        V,
        "The document as canonical JSON: keys sorted, no white space. NULL for a deletion.",
    ),
    replace(CONTENT_HASH, required=False),
    Column(
        "operation",
        V,
        "`upsert`: the document has this content from now on; `delete`: it is gone.",
        required=True,
    ),
    Column(
        "batch_id",
        DataType.BIGINT,
        "Number of the batch that added the version; later versions have higher numbers.",
        required=True,
    ),
    EXTRACTED_AT,
)

REJECTED_VALUES = (
    *KEY,
    Column("path", V, "Where the value is in the document.", required=True),
    Column("reason", V, "Why the value does not fit, as a short code.", required=True),
    Column("value", V, "The value as JSON, at most 1,000 characters of it.", required=True),
    Column("expected", V, "What fits the column, in words.", required=True),
    CONTENT_HASH,
    EXTRACTED_AT,
)

REJECTED_DOCUMENTS = (
    SOURCE_COLLECTION,
    RECORD_ID,
    Column("reason", V, "Why the document has no row, as a short code.", required=True),
    Column("path", V, "Where in the document the problem is."),
    Column("message", V, "What was found, what was expected, and what to do.", required=True),
    CONTENT_HASH,
    EXTRACTED_AT,
)

SESSIONS = (
    Column(
        "session_key",
        V,
        "Identity of the behaviour session, as in `analyses`; NULL where the session table names "
        "no subject or no day.",
    ),
    Column("subject_id", V, "The subject (mouse), six digits as text."),
    Column("session_date", DataType.DATE, "Day of the behaviour session, in the rig's local time."),
)

PRINCIPAL_INVESTIGATOR = Column("principal_investigator", V, "Who is responsible for the subject.")
SESSIONS_MADE = (
    PRINCIPAL_INVESTIGATOR,
    Column(
        "other_rows",
        V,
        "The further rows that the session table has of this session, as a list in JSON; NULL "
        "where there is one only. The row with the most finished trials is kept.",
    ),
)
"""Columns that `sessions` has in addition to those of the session table."""

COLLECTIONS = (
    SOURCE_COLLECTION,
    Column("source", V, "The source that was last read, without credentials."),
    Column("live_documents", DataType.BIGINT, "Documents in the source at the last extraction."),
    Column("rejected_documents", DataType.BIGINT, "Those of them without a row of `analyses`."),
    Column("deleted_documents", DataType.BIGINT, "Documents that were deleted from the source."),
    Column("prototype_documents", DataType.BIGINT, "Flattened documents of the prototype format."),
    Column("framework_documents", DataType.BIGINT, "Flattened documents of the framework format."),
    Column("successful_analyses", DataType.BIGINT, "Analyses with the outcome `success`."),
    Column("skipped_analyses", DataType.BIGINT, "Analyses with the outcome `skipped`."),
    Column("failed_analyses", DataType.BIGINT, "Analyses with the outcome `failed`."),
    Column("unknown_analyses", DataType.BIGINT, "Analyses with the outcome `unknown`."),
    Column("newest_finished_at", DataType.TIMESTAMPTZ, "When the newest analysis ended."),
    Column(
        "last_new_pass_at",
        DataType.TIMESTAMPTZ,
        "When the last *new* pass over the collection ended, as of the warehouse's build.",
    ),
    Column(
        "last_full_pass_at",
        DataType.TIMESTAMPTZ,
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
