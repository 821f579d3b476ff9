"""Plots of records."""

from pathlib import Path
from typing import Any

import altair as alt


def plot_ratios(record: dict[str, Any], target: Path) -> None:
    """Plot the wall seconds of both sides of each measure."""
    rows = [
        {"measure": one["name"].replace("`", ""), "side": side, "seconds": one[key]["wall_seconds"]}
        for one in record["measures"]
        if "failed" not in one and not one["ours"]["bytes"]
        for side, key in (("aind-etl", "ours"), ("compared with", "theirs"))
    ]
    chart = (
        alt.Chart(alt.Data(values=rows))
        .mark_bar()
        .encode(
            x=alt.X(
                "seconds:Q",
                scale=alt.Scale(type="symlog", constant=0.05),
                # The default labels only the upper end.
                axis=alt.Axis(values=[0, 0.1, 0.3, 1, 3, 10, 30, 100], labelExpr="datum.value"),
            ),
            y=alt.Y("side:N", title=None),
            color=alt.Color("side:N", legend=None),
            row=alt.Row(
                "measure:N",
                title=None,
                sort=[one["name"].replace("`", "") for one in record["measures"]],
                header=alt.Header(labelAngle=0, labelAlign="left"),
            ),
        )
        .properties(width=420, height=36)
    )
    chart.save(target, ppi=110)


def plot_scaling(record: dict[str, Any], target: Path) -> None:
    """Plot time and memory of each step against the number of documents."""
    rows = [one for one in record["sizes"] if "failed" not in one]
    base = alt.Chart(alt.Data(values=rows)).mark_line(point=True)
    x = alt.X("documents:Q", scale=alt.Scale(type="log"), title="documents")
    log = alt.Scale(type="log")
    chart = alt.hconcat(
        base.encode(x=x, y=alt.Y("seconds:Q", scale=log), color="step:N"),
        base.encode(x=x, y=alt.Y("peak_megabytes:Q", title="peak memory, MB"), color="step:N"),
    )
    chart.save(target, ppi=110)
