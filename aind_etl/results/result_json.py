"""One result file: from bytes to arrays of trials, or the reason why it is rejected.

Most of a file is the optimizer's population. It is skipped without creating objects: only the
fields of :class:`_Fit` are decoded.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from aind_etl.contract.result_files import LATENT_COLUMNS, WITHOUT_FINAL_STATE

FloatArray = NDArray[np.float64]

_SPREAD_BINS = 100


@dataclass(frozen=True, slots=True)
class Trials:
    """The trial-by-trial variables of a fit of n valid trials.

    Attributes
    ----------
    n_trials
        The number n.
    columns
        Columns of the table `trials` by name, shape [n + 1], NaN where there is no value; without
        the columns of variables that the fit does not have.
    others
        Variables that the table has no column for, by name, shape [rows, n] or [rows, n + 1].
    q_value_spread
        See :func:`q_value_spread`; None without Q values.
    """

    n_trials: int
    columns: dict[str, FloatArray]
    others: dict[str, FloatArray]
    q_value_spread: float | None


class ResultError(Exception):
    """A result file is not valid.

    Attributes
    ----------
    reason
        ``not_json``, ``wrong_type``, ``wrong_length``, ``wrong_value`` or ``no_trials``.
    path
        Path of the value in the file.
    """

    def __init__(self, reason: str, path: str, message: str) -> None:
        super().__init__(f"{message} It is read again when its content changes.")
        self.reason = reason
        self.path = path


# The values of a variable: one row, or a list of rows.
_Values = list[list[float | bool | None] | float | bool | None]


class _Settings(msgspec.Struct):
    """The history that the fit was made to."""

    fit_choice_history: list[float | bool] | None = None
    fit_reward_history: list[float | bool] | None = None


class _Fit(msgspec.Struct):
    """Fitting results, with the fields that trials need."""

    n_trials: int | None = None
    fit_settings: _Settings | None = None
    fitted_latent_variables: dict[str, _Values] | None = None


class _ResultFile(_Fit):
    """A result file: the fit itself, or a document around it."""

    analysis_results: _Fit | None = None


_CHOICES = "fit_settings.fit_choice_history"
_REWARDS = "fit_settings.fit_reward_history"
_LATENTS = "fitted_latent_variables."
# The columns of each variable in `trials`, one per row of the variable; row 0 is left.
_COLUMNS = {
    _CHOICES: ("choice",),
    _REWARDS: ("reward",),
    **{f"{_LATENTS}{name}": columns for name, columns in LATENT_COLUMNS.items()},
}
_BINARY = {_CHOICES, _REWARDS, f"{_LATENTS}exploiting"}
_WITHOUT_FINAL_STATE = {_CHOICES, _REWARDS, *(f"{_LATENTS}{name}" for name in WITHOUT_FINAL_STATE)}


def read_result(content: bytes) -> Trials:
    """Return the trials of a result file.

    Parameters
    ----------
    content
        JSON, which may contain bare ``NaN`` and ``Infinity``.

    Raises
    ------
    ResultError
        It is not JSON, or it contradicts itself.
    """
    file = _decode(content)
    if file.analysis_results is not None:
        return _trials(file.analysis_results, "analysis_results.")
    return _trials(file, "")


def read_document(text: str, process_index: int) -> Trials | None:
    """Return the trials of a document of either format; None if it does not contain them.

    Parameters
    ----------
    text
        The canonical JSON of the document, as in the change log.
    process_index
        Index of the process in a framework document.

    Raises
    ------
    ResultError
        The document contradicts itself.
    """
    document = json.loads(text, object_hook=_plain_number)
    fit, path = document.get("analysis_results"), "analysis_results"
    if "processing" in document:
        process = document["processing"]["data_processes"][process_index]
        outputs = process.get("output_parameters")
        # Early code wrote a list instead of an object.
        fit = outputs.get("fitting_results") if isinstance(outputs, dict) else None
        path = f"processing.data_processes[{process_index}].output_parameters.fitting_results"
    if not isinstance(fit, dict) or "fitted_latent_variables" not in fit:
        return None
    try:
        return _trials(msgspec.convert(fit, _Fit), f"{path}.")
    except msgspec.ValidationError as error:
        raise _wrong_type(error, path) from None


def _plain_number(value: dict[str, Any]) -> Any:  # noqa: ANN401 - any JSON
    """Return the non-finite number that canonical JSON writes as an object."""
    if value.keys() == {"$numberDouble"}:
        return float(value["$numberDouble"])
    return value


def q_value_spread(q_values: FloatArray) -> float | None:
    """Return how evenly Q values spread over [0, 1]: 0 if all are equal, 1 if uniform.

    It is the entropy of a histogram of 100 bins over [0, 1], divided by log2(100); None if no value
    lies there.
    """
    counts, _ = np.histogram(q_values, _SPREAD_BINS, (0.0, 1.0))
    shares = counts[counts > 0] / max(int(counts.sum()), 1)
    if not len(shares):
        return None
    # From 0, so that there is no negative zero.
    return float(0.0 - (shares * np.log2(shares)).sum() / np.log2(_SPREAD_BINS))


# --- decoding -------------------------------------------------------------------------------


_STRING = re.compile(rb'("(?:[^"\\]|\\.)*")', re.DOTALL)
_POPULATION = b'"population":'
_DECODER = msgspec.json.Decoder(_ResultFile)


def _decode(content: bytes) -> _ResultFile:
    """Return the fields of a result file that are needed."""
    try:
        return _DECODER.decode(_without_nan(_without_population(content)))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass  # The slow way reads infinities, or says why this is not JSON.
    try:
        loaded = json.loads(content)
        # Escaped surrogates are valid JSON, but no table can hold them.
        json.dumps(loaded, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        message = f"The file begins with {content[:40]!r}; expected JSON ({error})."
        raise ResultError("not_json", "", message) from None
    try:
        return msgspec.convert(loaded, _ResultFile)
    except msgspec.ValidationError as error:
        raise _wrong_type(error) from None


def _without_population(content: bytes) -> bytes:
    """Return a JSON text with null in place of every array that is an optimizer's population.

    The population is nine tenths of a file. Its end is found without parsing numbers: an array
    without strings and objects ends at the last bracket before the next quote or brace. If an array
    does contain them, the rest of it stays and the text is no longer JSON, so it is read the slow
    way.
    """
    if b"\\" in content:
        return content  # A quote may be escaped: it does not show where a string ends.
    parts, copied = [], 0
    while (key := content.find(_POPULATION, copied)) >= 0:
        begin = key + len(_POPULATION)
        stop = len(content)
        for sign in (b'"', b"}"):
            found = content.find(sign, begin, stop)
            stop = found if found >= 0 else stop
        end = content.rfind(b"]", begin, stop) + 1
        is_array = content[begin : begin + 2].lstrip().startswith(b"[") and end > begin
        parts += [content[copied:begin], b"null"] if is_array else [content[copied:begin]]
        copied = end if is_array else begin
    return b"".join((*parts, content[copied:])) if parts else content


def _without_nan(content: bytes) -> bytes:
    """Return a JSON text with null in place of every bare ``NaN``."""
    first = content.find(b"NaN")
    if first < 0:
        return content
    if b"\\" in content:
        parts = _STRING.split(content)
        parts[::2] = [part.replace(b"NaN", b"null") for part in parts[::2]]
        return b"".join(parts)
    # No quote is escaped: every second part between quotes is a string. Only the text from the
    # first to the last NaN is split.
    end = content.rfind(b"NaN") + len(b"NaN")
    outside = content.count(b'"', 0, first) % 2
    parts = content[first:end].split(b'"')
    parts[outside::2] = [part.replace(b"NaN", b"null") for part in parts[outside::2]]
    return b"".join((content[:first], b'"'.join(parts), content[end:]))


def _wrong_type(error: msgspec.ValidationError, root: str = "") -> ResultError:
    message, _, path = str(error).partition(" - at ")
    path = (root + path.strip("`").removeprefix("$")).removeprefix(".")
    return ResultError("wrong_type", path, f"{message}.")


# --- from a fit to trials -------------------------------------------------------------------


def _variables(fit: _Fit, path: str) -> dict[str, FloatArray]:
    """Return the histories and latent variables of a fit as arrays of rows, by their names."""
    settings = fit.fit_settings or _Settings()
    latents = fit.fitted_latent_variables or {}
    given: dict[str, Sequence[Any] | None] = {
        _CHOICES: settings.fit_choice_history,
        _REWARDS: settings.fit_reward_history,
        **{f"{_LATENTS}{name}": values for name, values in latents.items()},
    }
    if not latents and given[_CHOICES] is None:
        message = "There are neither latent variables nor a history of choices."
        raise ResultError("no_trials", f"{path}fitted_latent_variables", message)
    stated = {name: values for name, values in given.items() if values is not None}
    return {name: _as_array(values, f"{path}{name}") for name, values in stated.items()}


def _trials(fit: _Fit, path: str) -> Trials:
    variables = _variables(fit, path)
    n_trials = _count_trials(variables) if fit.n_trials is None else fit.n_trials
    columns: dict[str, FloatArray] = {}
    others = {}
    for name, values in variables.items():
        place = f"{path}{name}"
        if name not in _COLUMNS:
            _check_length(values, place, n_trials, n_trials + 1)
            others[name.removeprefix(_LATENTS)] = values
            continue
        _check_length(values, place, n_trials + (name not in _WITHOUT_FINAL_STATE))
        if len(values) != len(_COLUMNS[name]):
            raise _wrong_length(place, f"{len(_COLUMNS[name])} rows", f"{len(values)}")
        if name in _BINARY:
            _check_0_or_1(values, place)
        for column, row in zip(_COLUMNS[name], values, strict=True):
            columns[column] = _padded(row, n_trials)
    spread = None
    if "q_left" in columns:
        spread = q_value_spread(variables[f"{_LATENTS}q_value"])
        if "choice" in columns and "reward" in columns:
            # The prediction is the value of the chosen side before the trial.
            predicted = np.where(columns["choice"] == 0, columns["q_left"], columns["q_right"])
            columns["rpe"] = columns["reward"] - predicted
    return Trials(n_trials, columns, others, spread)


def _as_array(values: Sequence[Any], path: str) -> FloatArray:
    """Return a variable as an array of rows."""
    rows = values if values and isinstance(values[0], list) else [values]
    lengths = {len(row) if isinstance(row, list) else -1 for row in rows}
    if len(lengths) != 1 or -1 in lengths:
        raise _wrong_length(path, "rows of one length", f"lengths {sorted(lengths)}")
    try:
        return np.array(rows, dtype=np.float64)
    except ValueError:
        raise _wrong_length(path, "one row of numbers", "numbers and lists") from None


def _count_trials(variables: Mapping[str, FloatArray]) -> int:
    """Return the number of trials that variables have, of which the histories decide first."""
    for name in _COLUMNS:
        if name in variables:
            return int(variables[name].shape[1]) - (name not in _WITHOUT_FINAL_STATE)
    return max((values.shape[1] for values in variables.values()), default=0)


def _check_length(values: FloatArray, path: str, *lengths: int) -> None:
    found = values.shape[1]
    if found not in lengths:
        expected = " or ".join(f"{length:,}" for length in lengths)
        raise _wrong_length(path, f"{expected} values for this number of trials", f"{found:,}")


def _wrong_length(path: str, expected: str, found: str) -> ResultError:
    message = f"Found {found}; expected {expected}: the file contradicts itself."
    return ResultError("wrong_length", path, message)


def _check_0_or_1(values: FloatArray, path: str) -> None:
    odd = (values != 0.0) & (values != 1.0)
    if odd.any():
        raise ResultError("wrong_value", path, f"Found {values[odd][0]:g}; expected 0 or 1.")


def _padded(values: FloatArray, n_trials: int) -> FloatArray:
    """Return values with NaN after the last trial, if they do not extend beyond it."""
    return np.append(values, np.nan) if len(values) == n_trials else values
