"""The pages of MLflow's dashboard that a study is looked at on, and the links to them. No mlflow.

MLflow keeps a *saved view* of its runs page (filter, order, columns, charts) as a tag of the experiment, which a link
names: ``#/experiments/ID/runs?viewStateShareKey=KEY``. Its value is JSON, the state in it deflated. Without one the
page opens with the trials folded under the study's run and no chart.
"""

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from deltalab.wording import without_password

MODEL_TRAINING = "workflowType=machine_learning"
"""Opens MLflow for training runs; by itself it opens for generative AI."""
LOOPBACK = "127.0.0.1"
PORT = 5000
"""Where ``deltalab dashboard`` serves."""
CURVES = "curves"
"""The view that the printed link opens."""
TRIALS = "tags.`deltalab.kind` = 'trial'"
BY_NAME = "tags.`mlflow.runName`"
"""Any order but MLflow's own, by date, lists trials flat."""


def base_of(uri: str) -> str | None:
    """Where a browser finds the dashboard of a tracking URI; None where the URI is a database's."""
    return without_password(uri).rstrip("/") if uri.startswith(("http://", "https://")) else None


def where(uri: str, page: str) -> str:
    """How to come to a page of the dashboard, in words that end with an address."""
    base = base_of(uri)
    if base is not None:
        return f"{base}/{page}"
    if uri.startswith("sqlite"):
        return f"deltalab dashboard, then http://{LOOPBACK}:{PORT}/{page}"
    return f"deltalab dashboard --uri {without_password(uri)}, then http://{LOOPBACK}:{PORT}/{page}"


def runs_page(experiment_id: str, view: str = CURVES, charts: bool = True) -> str:
    """Of a dashboard's address what leads to the study's trials."""
    mode = "&compareRunsMode=CHART" if charts else ""
    return f"#/experiments/{experiment_id}/runs?viewStateShareKey={view}{mode}&{MODEL_TRAINING}"


def run_page(experiment_id: str, run_id: str, artifact: str = "") -> str:
    """Likewise to a run, or to a file of it."""
    path = f"/artifacts/{artifact}" if artifact else ""
    return f"#/experiments/{experiment_id}/runs/{run_id}{path}?{MODEL_TRAINING}"


def saved_views(
    metrics: Mapping[str, str], factors: Sequence[str], measured_often: bool, tuned: bool, moment: float
) -> dict[str, str]:
    """Tags of the experiment: its saved views.

    Args:
        metrics: the study's, with ``max``, ``min`` or ``""``; the first is the primary one.
        factors: the study's.
        measured_often: whether the metrics are measured during training, so that they are curves.
        tuned: whether some trials only choose a value.
        moment: seconds since the epoch.
    """
    only = TRIALS + (" and tags.`deltalab.stage` = 'compared'" if tuned else "")
    sections, charts = _charts(list(metrics), factors, measured_often)
    state = {
        "searchFilter": only,
        "orderByKey": BY_NAME,
        "orderByAsc": True,
        "runsHiddenMode": "SHOW_ALL",
        "isAccordionReordered": True,
        "compareRunSections": sections,
        "compareRunCharts": charts,
    }
    primary = next(iter(metrics), "train/loss")
    columns = [f"metrics.`{name}`" for name in metrics or [primary]]
    columns += [f"params.`level.{factor}`" for factor in factors] + ["tags.`seed`", "tags.`deltalab.state`"]
    ranked = {"orderByKey": f"metrics.`{primary}`", "orderByAsc": metrics.get(primary) != "max"}
    groups = {"aggregateFunction": "average", "groupByKeys": [{"mode": "tag", "groupByData": "cell"}]}
    views = {
        CURVES: ("Curves by cell", state | {"selectedColumns": columns}),
        "means": ("Means over seeds", state | {"selectedColumns": columns, "groupBy": groups}),
        "table": ("Best first", state | {"selectedColumns": columns} | ranked),
    }
    return {f"mlflow.sharedViewState.{key}": _envelope(name, view, moment) for key, (name, view) in views.items()}


def _envelope(name: str, state: Mapping[str, Any], moment: float) -> str:
    packed = base64.b64encode(zlib.compress(json.dumps(state).encode(), level=9)).decode()
    milliseconds = int(moment * 1000)
    plain = {"name": name, "createdAt": milliseconds, "updatedAt": milliseconds, "state": f"deflate;{packed}"}
    return json.dumps(plain)


def _charts(
    metrics: list[str], factors: Sequence[str], measured_often: bool
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Sections and charts that come first; MLflow adds one for every other metric."""
    curves = ["train/loss", *(metrics if measured_often else [])]
    charts = [_line(name, dots=name in metrics) for name in dict.fromkeys(curves)]
    charts += [_chart("BAR", "results", name, metricKey=name) for name in metrics]
    if metrics and factors:
        levels = [f"level.{factor}" for factor in factors]
        charts.append(_chart("PARALLEL", "levels", "all", selectedParams=levels, selectedMetrics=metrics[:4]))
    wide = {"curves": ("Curves", 2), "results": ("Results, last values", 2), "levels": ("Levels and results", 1)}
    used = dict.fromkeys(chart["metricSectionId"] for chart in charts)
    sections = [_section(key, *wide[key]) for key in used]
    return sections, charts


def _section(key: str, name: str, columns: int) -> dict[str, Any]:
    return {"uuid": key, "name": name, "columns": columns, "display": True, "isReordered": True, "isGenerated": False}


def _line(name: str, dots: bool) -> dict[str, Any]:
    """A metric against the step. Dots are MLflow's choice, where there are few; without them a curve is seen."""
    axes = {"xAxisKey": "step", "xAxisScaleType": "linear", "scaleType": "linear", "yAxisKey": "metric", "range": {}}
    settings = {"lineSmoothness": 0, "useGlobalXaxisKey": True, "useGlobalLineSmoothing": True, "yAxisExpressions": []}
    shown = {} if dots else {"displayPoints": False}
    return _chart("LINE", "curves", name, metricKey=name, selectedMetricKeys=[name], **axes, **settings, **shown)


def _chart(kind: str, section: str, name: str, **settings: Any) -> dict[str, Any]:
    common = {"uuid": f"{section}:{name}", "type": kind, "metricSectionId": section, "runsCountToCompare": 100}
    return {**common, "deleted": False, "isGenerated": False, **settings}
