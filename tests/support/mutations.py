"""Changes of documents and result files that are drawn at random."""

import copy

from hypothesis import strategies as st


def value_at(document, way):
    """Return the value at a way; None where there is none."""
    for step in way:
        try:
            document = document[step]
        except (KeyError, IndexError, TypeError):
            return None
    return document


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


def ways_of(value, way=()):
    """Yield the way to every value of a document but the document itself, inner ones included."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for step, inner in pairs:
        yield (*way, step)
        if isinstance(inner, dict | list):
            yield from ways_of(inner, (*way, step))


@st.composite
def mutations(draw):
    """Draw which document to change, and how: one to four values replaced, removed or added."""
    change = st.tuples(
        st.integers(0, 10**6), st.sampled_from(["replace", "remove", "add"]), ANYTHING
    )
    return draw(st.integers(0, 10**6)), draw(st.lists(change, min_size=1, max_size=4))


def mutate(document, changes):
    """Return a copy of a document with the changes of a mutation."""
    document = copy.deepcopy(document)
    for number, kind, value in changes:
        ways = [way for way in ways_of(document) if way != ("_id",)]
        if not ways:
            break
        *to, last = ways[number % len(ways)]
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
