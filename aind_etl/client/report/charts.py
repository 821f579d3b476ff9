"""The report's charts: Vega-Lite specifications by Altair.

The page passes the rows under the figure's name. Colours are CSS variables of the page, so that
light, dark and print share one drawing.
"""

from functools import partial
from typing import Any, Literal

import altair as alt

_INK = "var(--ink)"
_MUTED = "var(--muted)"
_ACCENT = "var(--accent)"
_SECOND = "var(--second)"
_PAPER = "var(--paper)"
_SHADES = [f"var(--shade-{number})" for number in range(1, 7)]
_BANDS = ["none", "below 25%", "25–50%", "50–75%", "75–99%", "all"]
_SERIES = [f"var(--series-{number})" for number in range(1, 9)]

# Vega measures texts before they are drawn, and so must know the page's font by name.
_FONT = (
    "'Avenir Next', 'Segoe UI', system-ui, -apple-system, 'Helvetica Neue', 'DejaVu Sans', "
    "sans-serif"
)
_TEXT = {
    "labelColor": _MUTED,
    "titleColor": _MUTED,
    "labelFontSize": 12,
    "titleFontSize": 12,
    "titleFontWeight": "normal",
}

CONFIG: dict[str, Any] = {
    "background": None,
    "font": _FONT,
    "view": {"stroke": None},
    "axis": {
        **_TEXT,
        "domainColor": "var(--line)",
        "gridColor": "var(--line)",
        "tickColor": "var(--line)",
        "labelLimit": 230,
    },
    # At the end of the axis a title may be wider than a narrow window's plot.
    "axisX": {"titleAnchor": "end"},
    "axisY": {"titleAnchor": "end", "titleAngle": 0, "titleAlign": "left", "titleY": -10},
    "legend": {
        **_TEXT,
        "orient": "top",
        "offset": 24,
        "labelLimit": 260,
        # Labels wider than a narrow plot are placed above the axis labels.
        "layout": {"top": {"anchor": {"signal": "width < 200 ? 'end' : 'start'"}}},
    },
}
"""Vega-Lite's configuration of every chart."""

# With as many decimals as the distance of the ticks needs.
_PERCENT = alt.Axis(format="%")
_ROW_HEIGHT = 19
_AGENT = alt.Axis(title=None, grid=False, domain=False, ticks=False, labelColor=_INK)
_Order = Literal["ascending", "descending"]


def best() -> dict[str, Any]:
    """Return bars of sessions won, one per agent."""
    tips = [_tip("sessions:Q", "sessions won", ",d"), _tip("compared:Q", "sessions fitted", ",d")]
    base = _by_agent("best", "sessions", *tips).transform_calculate(
        of="format(datum.sessions, ',d') + ' of ' + format(datum.compared, ',d')"
    )
    bars = _labelled_bars(base, "sessions", "sessions won", alt.Text("of:N"))
    return _specification(bars, alt.Step(_ROW_HEIGHT))


def delta_aic() -> dict[str, Any]:
    """Return medians, quartiles and tails of ΔAIC, one row per agent."""
    tips = [_tip("sessions:Q", "sessions", ",d"), _tip("median:Q", "median ΔAIC", ",.1f")]
    tips += [_tip(f"p{share}:Q", f"{share}th percentile", ",.1f") for share in (25, 75, 95)]
    base = _by_agent("delta_aic", "median", *tips, order="ascending")
    # Nearly all of the range is tails: up to 10, where agents still have support, it is linear.
    scale = alt.Scale(type="symlog", constant=10, nice=False)
    axis = alt.Axis(values=[0, 2, 10, 50, 200, 1000, 5000], format=",d")
    x = partial(alt.X, scale=scale, axis=axis)
    tails = base.mark_rule(color=_MUTED).encode(
        x=x("p5:Q", title="ΔAIC from the session's best"), x2="p95:Q"
    )
    middle = base.mark_bar(color=_ACCENT, height=9, opacity=0.55).encode(x=x("p25:Q"), x2="p75:Q")
    medians = base.mark_point(
        fill=_ACCENT, stroke=_PAPER, strokeWidth=1.5, size=80, opacity=1
    ).encode(x=x("median:Q"))
    return _specification(tails + middle + medians, alt.Step(_ROW_HEIGHT))


def accuracy() -> dict[str, Any]:
    """Return accuracy beside that of the bias alone, one row per agent."""
    x = partial(alt.X, scale=alt.Scale(zero=False, padding=8), axis=_PERCENT)
    tips = [
        _tip("sessions:Q", "sessions", ",d"),
        _tip("accuracy:Q", "accuracy", ".1%"),
        _tip("bias_only:Q", "bias only", ".1%"),
    ]
    base = _by_agent("accuracy", "accuracy", *tips)
    gains = base.mark_rule(color=_ACCENT, strokeWidth=2, opacity=0.5).encode(
        x=x("bias_only:Q", title="prediction accuracy, cross-validated"), x2="accuracy:Q"
    )
    bias = base.mark_point(stroke=_SECOND, fill=_PAPER, size=60, strokeWidth=2, opacity=1).encode(
        x=x("bias_only:Q")
    )
    dots = base.mark_point(stroke=_ACCENT, fill=_ACCENT, size=70, opacity=1).encode(
        x=x("accuracy:Q")
    )
    return _specification(gains + bias + dots, alt.Step(_ROW_HEIGHT))


def accuracy_sessions() -> dict[str, Any]:
    """Return accuracy against that of the bias alone, as circles of grouped fits."""
    scale = alt.Scale(zero=False, nice=False)
    fits = alt.Legend(
        title="fits",
        symbolFillColor=_ACCENT,
        format=",d",
        values=alt.ExprRef(
            "domain('size')[1] > 2 ? [1, ceil(domain('size')[1] / 2), domain('size')[1]]"
            " : sequence(1, domain('size')[1] + 1)"
        ),
    )
    sizes = alt.Scale(domainMin=0, nice=False, range=[12, 420])
    circles = _chart(
        "accuracy_sessions",
        x=alt.X("bias_only:Q", title="bias only", scale=scale, axis=_PERCENT),
        y=alt.Y("accuracy:Q", title="accuracy", scale=scale, axis=_PERCENT),
        size=alt.Size("fits:Q", legend=fits, scale=sizes),
        tooltip=[
            _tip("fits:Q", "fits", ",d"),
            _tip("accuracy:Q", "accuracy, about", ".0%"),
            _tip("bias_only:Q", "bias only, about", ".0%"),
        ],
    ).mark_point(fill=_ACCENT, stroke=_ACCENT, opacity=0.6)
    # From the smallest value of either axis, so that both have the same range.
    x, y = alt.X("smallest:Q", scale=scale), alt.Y("smallest:Q", scale=scale)
    diagonal = (
        _chart("accuracy_sessions", x=x, y=y, x2="largest:Q", y2="largest:Q")
        .transform_calculate(smaller="min(0.4, datum.bias_only, datum.accuracy)")
        .transform_aggregate(smallest="min(smaller)")
        .transform_calculate(largest="1")
        .mark_rule(color=_SECOND, strokeDash=[5, 4])
    )
    return _specification(diagonal + circles, 360)


def coverage() -> dict[str, Any]:
    """Return shares of sessions fitted, months by agents."""
    legend = alt.Legend(
        symbolType="square",
        symbolStrokeWidth=0,
        symbolSize=220,
        columns=alt.ExprRef("width < 360 ? 2 : 6"),
    )
    bands = alt.Scale(domain=_BANDS, range=_SHADES)
    outcomes = ("fitted", "skipped", "failed", "unknown", "missing")
    chart = _chart(
        "coverage",
        x=_dates("month:O", ticks=False),
        y=alt.Y("agent_alias:N", axis=_AGENT),
        color=alt.Color("band:N", title="share of sessions fitted", scale=bands, legend=legend),
        tooltip=[
            _tip("agent_alias:N", "agent"),
            _tip("month:O", "month"),
            _tip("share_fitted:Q", "fitted", ".0%"),
            _tip("sessions:Q", "sessions", ",d"),
            *(_tip(f"{outcome}:Q", f"sessions {outcome}", ",d") for outcome in outcomes),
        ],
    )
    return _specification(chart.mark_rect(stroke=_PAPER, strokeWidth=1), alt.Step(_ROW_HEIGHT))


def agreement() -> dict[str, Any]:
    """Return bars of pairs of fits, one per size of difference."""
    order = [
        *("equal", "below 0.01", "0.01 to 1", "1 to 10", "10 and more"),
        *("other trials", "not comparable"),
    ]
    difference = _tip("difference:N", "difference in log-likelihood")
    base = _chart(
        "agreement",
        y=alt.Y("difference:N", sort=order, axis=_AGENT),
        tooltip=[difference, _tip("pairs:Q", "pairs of fits", ",d")],
    )
    label = alt.Text("pairs:Q", format=",d")
    return _specification(_labelled_bars(base, "pairs", "pairs of fits", label), alt.Step(28))


def arrivals() -> dict[str, Any]:
    """Return stacked bars of documents arrived, one per day."""
    y = alt.Y("arrived:Q", title="documents arrived", axis=_count("y"))
    tips = [_tip(f"{name}:Q", name, ",d") for name in ("arrived", "changed", "deleted")]
    bars = _by_day("arrivals", y, *tips).mark_bar(
        width=alt.ExprRef("min(28, 0.8 * bandwidth('x'))")
    )
    return _specification(bars, 230)


def lag() -> dict[str, Any]:
    """Return points of median lags, one per day and collection."""
    scale = alt.Scale(type="symlog", constant=1, domainMin=0)
    axis = alt.Axis(values=[0, 1, 6, 24, 168, 720, 8760], format=",d")
    chart = _by_day(
        "lag",
        alt.Y("median_lag_hours:Q", title="hours from finished to seen", scale=scale, axis=axis),
        _tip("analyses:Q", "analyses", ",d"),
        _tip("median_lag_hours:Q", "median, hours", ",.1f"),
        _tip("max_lag_hours:Q", "longest, hours", ",.1f"),
    )
    return _specification(chart.mark_point(filled=True, size=70, opacity=0.9), 230)


def trajectory() -> dict[str, Any]:
    """Return one parameter over a subject's sessions; the page draws one per parameter."""
    x = alt.X("session:Q", title="session number", axis=_count("x", grid=False))
    base = _chart(
        "trajectory",
        x=x.scale(zero=False, nice=False, padding=10),
        y=alt.Y("value:Q", title=None, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=4)),
        tooltip=[
            _tip("date:O", "day"),
            _tip("session:Q", "session", "d"),
            _tip("value:Q", "value", ".4~g"),
            _tip("at_bound:N", "at a bound of the fit"),
        ],
    )
    line = base.mark_line(color=_ACCENT, strokeWidth=1.5, opacity=0.6)
    points = base.mark_point(stroke=_ACCENT, size=45, strokeWidth=1.5, opacity=1).encode(
        fill=alt.condition("datum.at_bound === 'yes'", alt.value(_PAPER), alt.value(_ACCENT))
    )
    bounds = _chart("bounds", y="bound:Q", tooltip=[_tip("bound:Q", "bound of the fit", ".4~g")])
    return _specification(bounds.mark_rule(stroke=_MUTED, strokeDash=[2, 3]) + line + points, 120)


def session() -> dict[str, Any]:
    """Return a session's values as lines, with a tick for each choice, longer if rewarded."""
    scale = alt.Scale(domain=["left", "right"], range=[_SECOND, _ACCENT])
    sides = alt.Color("side:N", title=None, scale=scale)
    trial = _tip("trial:Q", "trial", "d")
    x = alt.X("trial:Q", title="trial", axis=_count("x", grid=False)).scale(nice=False)
    values = _chart(
        "session",
        x=x,
        y=alt.Y("value:Q", title="value of a side before the trial"),
        color=sides,
        tooltip=[trial, _tip("side:N", "side"), _tip("value:Q", "value", ".3f")],
    )
    choices = _chart(
        "choices",
        x=x,
        y="from:Q",
        y2="to:Q",
        color=sides,
        tooltip=[trial, _tip("side:N", "chose"), _tip("reward:N", "reward")],
    )
    return _specification(
        values.mark_line(strokeWidth=1.5) + choices.mark_rule(strokeWidth=1.2), 260
    )


def _count(scale: str, *, grid: bool = True) -> alt.Axis:
    """Return an axis whose ticks are integers: no more of them than its range has."""
    span = f"domain('{scale}')[1] - domain('{scale}')[0]"
    return alt.Axis(grid=grid, format=",d", tickCount=alt.ExprRef(f"max(1, min(6, floor({span})))"))


def _chart(name: str, **encodings: Any) -> alt.Chart:  # noqa: ANN401 - Altair's channels
    """Return a chart, without a mark yet, of the page's data of this name."""
    return alt.Chart(alt.NamedData(name)).encode(**encodings)


def _by_agent(name: str, field: str, *tips: alt.Tooltip, order: _Order = "descending") -> alt.Chart:
    """Return a chart with a row per agent, sorted by a field."""
    y = alt.Y("agent_alias:N", axis=_AGENT).sort(field=field, op="max", order=order)
    return _chart(name, y=y, tooltip=[_tip("agent_alias:N", "agent"), *tips])


def _dates(field: str, *, ticks: bool = True) -> alt.X:
    axis = alt.Axis(labelAngle=-45, labelOverlap=True, domain=False, ticks=ticks)
    return alt.X(field, title=None, axis=axis)


def _by_day(name: str, y: alt.Y, *tips: alt.Tooltip) -> alt.Chart:
    """Return a chart with a column per day, and a colour per collection."""
    legend = alt.Legend(columns=alt.ExprRef("width < 420 ? 1 : 2"))
    scale = alt.Scale(range=_SERIES)
    return _chart(
        name,
        x=_dates("day:O"),
        y=y,
        color=alt.Color("collection:N", title=None, scale=scale, legend=legend),
        tooltip=[_tip("collection:N", "collection"), _tip("day:O", "day (UTC)"), *tips],
    )


def _labelled_bars(base: alt.Chart, field: str, title: str, label: alt.Text) -> alt.LayerChart:
    base = base.encode(x=alt.X(f"{field}:Q", title=title, axis=_count("x")))
    bars = base.mark_bar(color=_ACCENT, cornerRadiusEnd=2)
    labels = base.mark_text(align="left", dx=4, color=_INK).encode(text=label)
    return alt.LayerChart(layer=[bars, labels])


def _tip(field: str, title: str, number_format: str | None = None) -> alt.Tooltip:
    return alt.Tooltip(field, title=title, format=number_format or alt.Undefined)


def _specification(chart: alt.Chart | alt.LayerChart, height: int | alt.Step) -> dict[str, Any]:
    specification: dict[str, Any] = chart.properties(
        width="container",
        height=height,
        autosize=alt.AutoSizeParams(type="fit-x", contains="padding"),
    ).to_dict()
    # Altair configures every chart; the page passes its own configuration once.
    specification.pop("config", None)
    return specification
