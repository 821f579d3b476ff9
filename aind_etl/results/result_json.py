"""One result file: from bytes to arrays of trials, or the reason why it is rejected.

Most of a file is the optimizer's population, which is skipped without creating objects: only the
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

FloatArray = NDArray[np.float64]

_SPREAD_BINS = 100
_SPREAD_EDGES = np.linspace(0.0, 1.0, _SPREAD_BINS + 1)[1:-1]


@dataclass(frozen=True, slots=True)
class Trials:
    """The trial-by-trial variables of a fit of n valid trials.

    Attributes
    ----------
    n_trials
        The number n.
    columns
        Column of the table `trials` to its values, shape [n + 1], NaN where there is none. A
        column whose variable the fit has not is left out.
    others
        Variables the table does not know: name to values, shape [rows, n] or [rows, n + 1].
    q_value_spread
        See :func:`q_value_spread`; None of a fit without Q values.
    """

    n_trials: int
    columns: dict[str, FloatArray]
    others: dict[str, FloatArray]
    q_value_spread: float | None


class ResultError(Exception):
    """A result file that cannot be taken.

    Attributes
    ----------
    reason
        ``not_json``, ``wrong_type``, ``wrong_length``, ``wrong_value`` or ``no_trials``.
    path
        Where in the file.
    """

    def __init__(self, reason: str, path: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.path = path


# Numbers of a variable: one row, or two. Written as they come, whole numbers and null included.
_Values = list[list[float | bool | None] | float | bool | None]


class _Settings(msgspec.Struct):
    """What was fitted to."""

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


@dataclass(frozen=True, slots=True)
class _Variable:
    """A latent variable that the table `trials` knows.

    Attributes
    ----------
    columns
        Its columns, one a row of the variable; row 0 is left.
    after_last
        Whether there is a value for the state after the last trial.
    """

    columns: tuple[str, ...]
    after_last: bool


_VARIABLES = {
    "q_value": _Variable(("q_left", "q_right"), after_last=True),
    "choice_kernel": _Variable(("choice_kernel_left", "choice_kernel_right"), after_last=True),
    "choice_prob": _Variable(("choice_prob_left", "choice_prob_right"), after_last=False),
    "value": _Variable(("value",), after_last=True),
    "threshold": _Variable(("threshold",), after_last=True),
    "p_exploit": _Variable(("p_exploit",), after_last=True),
    "exploiting": _Variable(("exploiting",), after_last=False),
    "loss_count": _Variable(("loss_count",), after_last=True),
}


def read_result(content: bytes) -> Trials:
    """Return the trials of a result file.

    Parameters
    ----------
    content
        JSON, with bare ``NaN`` and ``Infinity`` where there is no finite number.

    Raises
    ------
    ResultError
        It is no JSON, or it contradicts itself.
    """
    file = _decode(content)
    if file.analysis_results is not None:
        return _trials(file.analysis_results, "analysis_results.")
    return _trials(file, "")


def read_document(text: str, process_index: int) -> Trials | None:
    """Return the trials of a document of either format; None where they are trimmed.

    Parameters
    ----------
    text
        The canonical JSON of a document, as the change log holds it.
    process_index
        Which of a framework document's processes.

    Raises
    ------
    ResultError
        What it tells contradicts itself.
    """
    document = json.loads(text, object_hook=_plain_number)
    fit, path = document.get("analysis_results"), "analysis_results"
    if "processing" in document:
        process = document["processing"]["data_processes"][process_index]
        outputs = process.get("output_parameters")
        # Early code wrote a list where an object belongs.
        fit = outputs.get("fitting_results") if isinstance(outputs, dict) else None
        path = f"processing.data_processes[{process_index}].output_parameters.fitting_results"
    if not isinstance(fit, dict) or "fitted_latent_variables" not in fit:
        return None
    try:
        return _trials(msgspec.convert(fit, _Fit), f"{path}.")
    except msgspec.ValidationError as error:
        raise _wrong_type(error, path) from None


def _plain_number(value: dict[str, Any]) -> Any:  # noqa: ANN401 - any JSON
    """Return the number that canonical JSON spells as an object, where it is not finite."""
    if value.keys() == {"$numberDouble"}:
        return float(value["$numberDouble"])
    return value


def q_value_spread(q_values: FloatArray) -> float | None:
    """Return how evenly Q values spread over [0, 1]: 0 all alike, 1 each as often as any other.

    The entropy of a histogram of 100 bins over [0, 1], divided by log2(100); None where no value
    lies there.
    """
    # As np.histogram counts, in a fifth of its time: the edges between the bins suffice.
    inside = q_values[(q_values >= 0.0) & (q_values <= 1.0)]
    counts = np.bincount(np.searchsorted(_SPREAD_EDGES, inside, side="right"))
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
    """Return what is needed of a result file.

    Raises
    ------
    ResultError
        It is no JSON, or a value is of another type.
    """
    try:
        return _DECODER.decode(_without_nan(_without_population(content)))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass  # The slow way knows infinities and escapes, or why this is no JSON.
    try:
        loaded = json.loads(content)
        # Halves of characters, which no table can hold, pass as escapes.
        json.dumps(loaded, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise ResultError(
            "not_json",
            "",
            f"JSON was expected, and this is none ({error}); it begins with {content[:40]!r}. It "
            "is tried again when the store has another content.",
        ) from None
    try:
        return msgspec.convert(loaded, _ResultFile)
    except msgspec.ValidationError as error:
        raise _wrong_type(error) from None


def _without_population(content: bytes) -> bytes:
    """Return a JSON text with null in place of every array that is an optimizer's population.

    It is nine tenths of a file, and finding its end takes no look at its numbers: an array without
    strings and objects ends at the last bracket before the next quote or brace. Of an array with
    any of them a part is left over, after which the text is no JSON.
    """
    if b"\\" in content:
        return content  # Of a quote in a string nothing follows.
    parts, taken = [], 0
    while (key := content.find(_POPULATION, taken)) >= 0:
        begin = key + len(_POPULATION)
        stop = _first(content, b'"', begin, len(content))
        stop = _first(content, b"}", begin, stop)
        end = content.rfind(b"]", begin, stop) + 1
        is_array = content[begin : begin + 2].lstrip().startswith(b"[") and end > begin
        parts += [content[taken:begin], b"null"] if is_array else [content[taken:begin]]
        taken = end if is_array else begin
    return b"".join((*parts, content[taken:])) if parts else content


def _first(content: bytes, sign: bytes, begin: int, end: int) -> int:
    """Return the first position of a character from ``begin`` on, at most ``end``."""
    found = content.find(sign, begin, end)
    return found if found >= 0 else end


def _without_nan(content: bytes) -> bytes:
    """Return a JSON text with null in place of every bare ``NaN``."""
    first = content.find(b"NaN")
    if first < 0:
        return content
    if b"\\" in content:
        parts = _STRING.split(content)
        parts[::2] = [part.replace(b"NaN", b"null") for part in parts[::2]]
        return b"".join(parts)
    # Quotes cannot be escaped: every second part between them is a string. Only what lies between
    # the first and the last of them is parsed.
    end = content.rfind(b"NaN") + len(b"NaN")
    outside = content.count(b'"', 0, first) % 2
    parts = content[first:end].split(b'"')
    parts[outside::2] = [part.replace(b"NaN", b"null") for part in parts[outside::2]]
    return b"".join((content[:first], b'"'.join(parts), content[end:]))


def _wrong_type(error: msgspec.ValidationError, root: str = "") -> ResultError:
    message, _, path = str(error).partition(" - at ")
    return ResultError(
        "wrong_type",
        (root + path.strip("`").removeprefix("$")).removeprefix("."),
        f"{message}. It is tried again when the store has another content.",
    )


# --- from a fit to trials -------------------------------------------------------------------


def _trials(fit: _Fit, path: str) -> Trials:
    settings = fit.fit_settings or _Settings()
    latents = fit.fitted_latent_variables
    choices, rewards = settings.fit_choice_history, settings.fit_reward_history
    if not latents and choices is None:
        raise ResultError(
            "no_trials",
            f"{path}fitted_latent_variables",
            "There are neither latent variables nor a history of choices. It is tried again when "
            "the store has another content.",
        )
    variables = {
        name: _as_array(values, f"{path}fitted_latent_variables.{name}")
        for name, values in (latents or {}).items()
    }
    n_trials = _count_trials(fit, variables)
    columns: dict[str, FloatArray] = {}
    for name, history in (("choice", choices), ("reward", rewards)):
        if history is not None:
            place = f"{path}fit_settings.fit_{name}_history"
            values = _of_length(np.array([history], dtype=np.float64), n_trials, n_trials, place)[0]
            _refuse_other_than_0_and_1(values, place)
            columns[name] = _padded(values, n_trials)
    others = {}
    for name, values in variables.items():
        place = f"{path}fitted_latent_variables.{name}"
        variable = _VARIABLES.get(name)
        if variable is None:
            others[name] = _of_length(values, n_trials, n_trials + 1, place)
            continue
        length = n_trials + variable.after_last
        _of_length(values, length, length, place)
        if len(values) != len(variable.columns):
            raise _wrong_length(place, f"{len(variable.columns)} rows", f"{len(values)}")
        if name == "exploiting":
            _refuse_other_than_0_and_1(values, place)
        for column, row in zip(variable.columns, values, strict=True):
            columns[column] = _padded(row, n_trials)
    spread = None
    if "q_left" in columns:
        spread = q_value_spread(variables["q_value"])
        if "choice" in columns and "reward" in columns:
            # The value before the trial: that of the chosen side is what was predicted.
            predicted = np.where(columns["choice"] == 0, columns["q_left"], columns["q_right"])
            columns["rpe"] = columns["reward"] - predicted
    return Trials(n_trials, columns, others, spread)


def _as_array(values: Sequence[Any], path: str) -> FloatArray:
    """Return a variable as an array of rows."""
    rows = values if values and isinstance(values[0], list) else [values]
    lengths = {len(row) if isinstance(row, list) else -1 for row in rows}
    if len(lengths) != 1 or -1 in lengths:
        raise _wrong_length(path, "rows of one length", f"lengths {sorted(lengths)}")
    if values and not isinstance(values[0], list) and any(isinstance(v, list) for v in values):
        raise _wrong_length(path, "one row of numbers", "numbers and lists")
    return np.array(rows, dtype=np.float64)


def _count_trials(fit: _Fit, variables: Mapping[str, FloatArray]) -> int:
    """Return the number of trials a fit says it has, or else that its variables have."""
    settings = fit.fit_settings or _Settings()
    if fit.n_trials is not None:
        return fit.n_trials
    for history in (settings.fit_choice_history, settings.fit_reward_history):
        if history is not None:
            return len(history)
    for name, variable in _VARIABLES.items():
        if name in variables:
            return int(variables[name].shape[1]) - variable.after_last
    return max((values.shape[1] for values in variables.values()), default=0)


def _of_length(values: FloatArray, least: int, most: int, path: str) -> FloatArray:
    length = values.shape[1]
    if not least <= length <= most:
        expected = f"{least:,}" if least == most else f"{least:,} or {most:,}"
        raise _wrong_length(path, f"{expected} values for the trials there are", f"{length:,}")
    return values


def _wrong_length(path: str, expected: str, found: str) -> ResultError:
    return ResultError(
        "wrong_length",
        path,
        f"{expected} were expected, and {found} found: the file contradicts itself. It is tried "
        "again when the store has another content.",
    )


def _refuse_other_than_0_and_1(values: FloatArray, path: str) -> None:
    odd = (values != 0.0) & (values != 1.0)
    if odd.any():
        raise ResultError(
            "wrong_value",
            path,
            f"0 or 1 was expected, and {values[odd][0]:g} found. It is tried again when the store "
            "has another content.",
        )


def _padded(values: FloatArray, n_trials: int) -> FloatArray:
    """Return values with NaN for the state after the last trial, if there is none for it."""
    if len(values) == n_trials:
        return np.append(values, np.nan)
    return values
