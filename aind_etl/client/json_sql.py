"""SQL over values of JSON, with the paths and types of a MongoDB server.

Paths go through arrays as on a server: a path continues through every object of an array, a number
in it is a position as well as a key, and an array at its end matches as a whole and by each of its
elements.

In the SQL, the values at a path are a list of JSON. SQL's NULL in it is a missing value, JSON's
null a value that is null.
"""

from itertools import product

from aind_etl.contract.ddl import quote_text


def values_at(document: str, path: str, *, is_whole: bool) -> str:
    """Return SQL of the list of values at a path.

    Arrays at its end are left whole if ``is_whole``, and otherwise followed by their elements.
    """
    steps = path.split(".")
    # A number is a key, and a position in an array as well.
    choices = [
        (False, True) if step.isdecimal() and depth else (False,)
        for depth, step in enumerate(steps)
    ]
    lists = [
        _follow(document, list(zip(steps, positions, strict=True)), is_whole=is_whole)
        for positions in product(*choices)
    ]
    return lists[0] if len(lists) == 1 else f"list_concat({', '.join(lists)})"


def is_object(value: str) -> str:
    """Return SQL that is true where a value is an object."""
    return f"json_type({value}) = 'OBJECT'"


def is_array(value: str) -> str:
    """Return SQL that is true where a value is an array."""
    return f"json_type({value}) = 'ARRAY'"


def elements(value: str) -> str:
    """Return SQL of the elements of an array, NULL for other values."""
    return f"CASE WHEN {is_array(value)} THEN json_extract({value}, '$[*]') END"


def text(value: str) -> str:
    """Return SQL of a string, NULL for other values."""
    return f"CASE WHEN json_type({value}) = 'VARCHAR' THEN {value}->>'$' END"


def boolean(value: str) -> str:
    """Return SQL of a boolean, NULL for other values."""
    return f"CASE WHEN json_type({value}) = 'BOOLEAN' THEN {value}::BOOLEAN END"


def number(value: str) -> str:
    """Return SQL of a number as a float, NULL for other values."""
    extended = f"coalesce({value}->>'/$numberDouble', {value}->>'/$numberDecimal')"
    return (
        f"CASE WHEN json_type({value}) IN ('DOUBLE', 'BIGINT', 'UBIGINT') THEN {value}::DOUBLE "
        f"WHEN {is_object(value)} THEN TRY_CAST({extended} AS DOUBLE) END"
    )


def _follow(document: str, steps: list[tuple[str, bool]], *, is_whole: bool) -> str:
    """Return the values at the end of steps, each a name and whether it is a position."""
    values = f"[{document}]"
    for depth, (step, is_position) in enumerate(steps):
        if is_position:
            entries = _each(values, _at_position(step))
            values = f"list_filter({entries}, lambda v: v IS NOT NULL)"
        else:
            values = _each(values, _at_key(step))
        if depth + 1 < len(steps):
            is_position_next = steps[depth + 1][1]
            if not is_position_next:
                objects = f"list_filter(json_extract(v, '$[*]'), lambda e: {is_object('e')})"
                values = _replace_arrays(values, objects, is_object("v") if is_position else "TRUE")
        elif not is_position and not is_whole:
            values = _replace_arrays(values, "list_append(json_extract(v, '$[*]'), v)", "TRUE")
    return values


def _each(values: str, expression: str) -> str:
    return f"list_transform({values}, lambda v: {expression})"


def _replace_arrays(values: str, by: str, alone: str) -> str:
    """Return values in which a list replaces each array; others are kept if ``alone`` holds."""
    replaced = f"CASE WHEN {is_array('v')} THEN {by} WHEN {alone} THEN [v] ELSE [] END"
    return f"flatten({_each(values, replaced)})"


def _at_key(key: str) -> str:
    pointer = "/" + key.replace("~", "~0").replace("/", "~1")
    return f"json_extract(v, {quote_text(pointer)})"


def _at_position(position: str) -> str:
    # A number with leading zeros is a key only.
    if position != str(int(position)):
        return "NULL::JSON"
    return f"CASE WHEN {is_array('v')} THEN json_extract(v, '$[{position}]') END"
