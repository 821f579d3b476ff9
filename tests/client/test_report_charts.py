"""The axes of the report's charts are readable for all values."""

import re
from itertools import chain
from xml.etree import ElementTree as ET

import pytest
import vl_convert
from hypothesis import example, given, settings
from hypothesis import strategies as st

from aind_etl.client.report import charts

pytestmark = pytest.mark.slow

# Shares of trials, of which a session has some hundreds.
SHARES = st.lists(st.integers(0, 10_000).map(lambda n: n / 10_000), min_size=1, max_size=5)
COUNTS = st.lists(st.integers(1, 200_000), min_size=1, max_size=5)


def drawn(name, rows, width=300):
    """Return the texts of each axis, and last of the legend, of a chart, as they are drawn."""
    specification = getattr(charts, name)()
    height = specification["height"]
    whole = {
        **specification,
        "width": width,
        "height": 200 if isinstance(height, dict) else height,
        "datasets": {**specification.get("datasets", {}), name: rows},
        "config": charts.CONFIG,
    }
    tree = ET.fromstring(vl_convert.vegalite_to_svg(whole))
    axes, legend = [], []
    for group in tree.iter():
        if re.search(r"role-(axis|legend)-label", group.get("class", "")):
            texts = [text for text in group if text.tag.endswith("text")]
            # Labels that would overlap are drawn transparent.
            labels = ["".join(text.itertext()) for text in texts if text.get("opacity") != "0"]
            if "role-axis-label" in group.get("class"):
                axes.append(labels)
            else:
                legend.extend(labels)
    return [*axes, legend]


def assert_labels_differ(texts):
    for labels in texts:
        named = [label for label in labels if label]
        assert len(named) == len(set(named)), labels


def are_integers(labels):
    return all(re.fullmatch(r"[\d,]*", label) for label in labels)


@settings(max_examples=40, deadline=None)
@given(SHARES, SHARES)
@example([0.7, 0.701], [0.702, 0.703])
@example([0.5], [0.5])
@example([0.05], [0.3])
def test_axis_labels_of_close_shares_differ(first, second):
    rows = [
        {"agent_alias": f"agent {number}", "sessions": 1, "accuracy": one, "bias_only": other}
        | {"fits": number + 1}
        for number, (one, other) in enumerate(zip(first, second, strict=False))
    ]
    assert_labels_differ(drawn("accuracy", rows))
    texts = drawn("accuracy_sessions", rows)
    assert_labels_differ(texts)
    assert "0" not in texts[-1]


@settings(max_examples=40, deadline=None)
@given(COUNTS)
@example([1])
@example([1, 2])
@example([3, 4])
def test_ticks_of_counts_are_integers(counts):
    rows = [
        {
            **dict.fromkeys(("sessions", "compared", "pairs", "arrived", "session"), count),
            "agent_alias": f"agent {number}",
            "difference": f"size {number}",
            "collection": "one",
            "day": f"2026-01-{number + 1:02}",
            "date": "2026-01-01",
            "value": 0.1 * number,
            "at_bound": "no",
        }
        for number, count in enumerate(counts)
    ]
    for name, axis in (("best", 0), ("agreement", 0), ("arrivals", 1), ("trajectory", 0)):
        texts = drawn(name, rows)
        assert_labels_differ(texts)
        assert are_integers(texts[axis]), (name, texts)
        assert any(texts[axis]), (name, texts)


@pytest.mark.parametrize("width", [150, 300, 900])
@pytest.mark.parametrize("largest", [1, 2, 3, 7, 1_234])
def test_the_legend_of_sizes_begins_with_one_fit(width, largest):
    rows = [{"bias_only": 0.5, "accuracy": 0.6, "fits": fits} for fits in (1, largest)]
    sizes = drawn("accuracy_sessions", rows, width)[-1]
    assert sizes[0] == "1"
    assert sizes[-1] == f"{largest:,}"
    assert len(set(sizes)) == len(sizes)


def test_an_accuracy_below_chance_has_an_axis_label():
    rows = [{"bias_only": 0.5, "accuracy": 0.12, "fits": 1}]
    assert {"10%", "15%", "20%"} & set(chain(*drawn("accuracy_sessions", rows)))
