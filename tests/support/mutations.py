"""Random changes of documents and result files."""

import copy

from hypothesis import strategies as st


def value_at(document, path):
    """Return the value at a path; None if there is none."""
    for step in path:
        try:
            document = document[step]
        except (KeyError, IndexError, TypeError):
            return None
    return document


def put(document, path, value):
    """Put a value at a path of a document."""
    *to, last = path
    value_at(document, to)[last] = value


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=True, allow_infinity=True)
    | st.text(st.characters(codec="utf-8"), max_size=5)
    | st.sampled_from(
        [
            *("2024-10-24", "2025-01-01T00:00:00Z", "s3://bucket/key", "$date", "a.b", ""),
            *("9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00"),
        ]
    ),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(st.characters(codec="utf-8"), max_size=4)
            | st.sampled_from(["a.b", "a[0]", "params", "AIC", "url"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
)


def ways_of(value, path=()):
    """Yield the path to every value in a document, inner ones included."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for step, inner in pairs:
        yield (*path, step)
        if isinstance(inner, dict | list):
            yield from ways_of(inner, (*path, step))


@st.composite
def mutations(draw):
    """Draw the number of a document, and one to four values to replace, remove or add."""
    change = st.tuples(
        st.integers(0, 10**6), st.sampled_from(["replace", "remove", "add"]), ANYTHING
    )
    return draw(st.integers(0, 10**6)), draw(st.lists(change, min_size=1, max_size=4))


def mutate(document, changes):
    """Return a copy of a document with the changes of a mutation."""
    document = copy.deepcopy(document)
    for number, kind, value in changes:
        paths = [path for path in ways_of(document) if path != ("_id",)]
        if not paths:
            break
        *to, last = paths[number % len(paths)]
        target = value_at(document, to)
        if kind == "replace":
            target[last] = value
        elif kind == "remove":
            del target[last]
        elif isinstance(target, dict):
            target[f"new {last}"] = value
        else:
            target.insert(last, value)
    return document
