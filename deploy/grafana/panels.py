"""How a panel of ours looks; what it shows is in the dashboards' own modules.

In expressions ``NS`` stands for the choice of an installation: ``namespace=~"$namespace"``.
"""

from __future__ import annotations

from collections.abc import Sequence

from grafana_foundation_sdk.builders import common, prometheus, stat, timeseries
from grafana_foundation_sdk.builders.dashboard import (
    Dashboard,
    DatasourceVariable,
    QueryVariable,
    Row,
    ThresholdsConfig,
)
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    LegendDisplayMode,
    LegendPlacement,
    StackingMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DataSourceRef,
    Threshold,
    ThresholdsMode,
    VariableOption,
    VariableRefresh,
)

Panel = stat.Panel | timeseries.Panel

_SOURCE = DataSourceRef(type_val="prometheus", uid="$datasource")
_CHOICE = 'namespace=~"$namespace"'
_WIDTH = 24


def figure(
    title: str, expression: str, unit: str, about: str, *, bad_from: float | None = None, width: int = 4
) -> stat.Panel:
    """One number of the moment; red from ``bad_from`` on."""
    steps = [Threshold(value=None, color="green" if bad_from is not None else "text")]
    if bad_from is not None:
        steps.append(Threshold(value=bad_from, color="red"))
    return (
        stat.Panel()
        .title(title)
        .description(about)
        .datasource(_SOURCE)
        .unit(unit)
        .span(width)
        .height(4)
        .color_mode(BigValueColorMode.VALUE)
        .thresholds(ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .with_target(_query(expression, "").ref_id("A"))
    )


def lines(
    title: str,
    queries: dict[str, str],
    unit: str,
    about: str,
    *,
    stacked: bool = False,
    percent: bool = False,
    most: float | None = None,
    width: int = 8,
) -> timeseries.Panel:
    """Curves over time.

    Args:
        title: The heading.
        queries: What a curve is called, with ``{{label}}`` for a label's value, to its expression.
        unit: Grafana's name of it.
        about: What it shows, and what to look for.
        stacked: Whether curves lie on each other.
        percent: Whether they are shares of their sum.
        most: End of the axis.
        width: Of the 24 columns.
    """
    panel = (
        timeseries.Panel()
        .title(title)
        .description(about)
        .datasource(_SOURCE)
        .unit(unit)
        .span(width)
        .height(8)
        .min(0)
        .line_width(1)
        .fill_opacity(20 if stacked or percent else 0)
        .legend(
            common.VizLegendOptions()
            .display_mode(LegendDisplayMode.LIST)
            .placement(LegendPlacement.BOTTOM)
            .show_legend(True)
        )
    )
    if stacked or percent:
        mode = StackingMode.PERCENT if percent else StackingMode.NORMAL
        panel.stacking(common.StackingConfig().mode(mode).group("A"))
    if most is not None:
        panel.max(most)
    for number, (legend, expression) in enumerate(queries.items()):
        panel.with_target(_query(expression, legend).ref_id(chr(ord("A") + number)))
    return panel


def dashboard(uid: str, title: str, about: str, rows: dict[str, Sequence[Panel]], *, start: str) -> Dashboard:
    """A dashboard of rows of panels, with the choice of data source and installation."""
    every = VariableOption(selected=True, text="All", value="$__all")
    built = (
        Dashboard(title)
        .uid(uid)
        .description(about)
        .tags(["dermbatch"])
        .timezone("browser")
        .refresh("30s")
        .time(start, "now")
        .readonly()
        .with_variable(DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(
            QueryVariable("namespace")
            .label("Namespace")
            .datasource(_SOURCE)
            .query("label_values(dermbatch_leader, namespace)")
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
            .include_all(True)
            .all_value(".*")  # where there is no such label, too
            .current(every)
        )
    )
    for name, panels in rows.items():
        built.with_row(Row(name))
        for panel in panels:
            built.with_panel(panel)
    return built


def _query(expression: str, legend: str) -> prometheus.Dataquery:
    text = " ".join(expression.replace("NS", _CHOICE).split())
    return prometheus.Dataquery().expr(text).legend_format(legend).datasource(_SOURCE)
