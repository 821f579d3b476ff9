"""Descriptions of the columns that `sessions` takes from the session table, with their labels."""

import re
from collections.abc import Sequence

_AS_JSON = ", as JSON."


def describe(labels: Sequence[str], *, is_json: bool) -> str:
    """Return the description of a column, by its label in the session table.

    If that has levels of columns, there are several labels, the innermost last. ``is_json`` says
    whether its values are nested there.
    """
    *above, name = labels
    under = f", under `{'.'.join(above)}`" if above else ""
    return f"`{name}` of the session table{under}{_AS_JSON if is_json else '.'}"


def original_label(description: str) -> str | None:
    """Return the session table's label of a column described so; None for any other column."""
    found = re.match(r"`(.*)` of the session table", description)
    return found and found[1]


def is_json(description: str) -> bool:
    """Return whether the values of a column described so are nested in the session table."""
    return description.endswith(_AS_JSON)
