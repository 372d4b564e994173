"""A sweep's dashboard on Weights & Biases as code, and wandb's own view of offline runs in a terminal.

The only file that imports wandb_workspaces, and only inside functions, as that imports wandb.
"""

import contextlib
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.errors import ConfigError, MissingError, StoreError
from bench.results.store import Result, Store
from bench.run.tracking import wandb_run as tracking

DASHBOARD = "dashboard.json"
# What a plot of memory needs, by what the runs measured: torch's own count on a GPU, else the process.
_MEMORY = {"cuda": "train_peak_reserved_bytes", "cpu_resident": "train_peak_resident_bytes"}
_HYPERPARAMETERS = ("method.name", "lora.r", "lora.alpha", "lora.dropout", "train.lr")  # of a run's config
_CURVES = ("loss", "validation_loss", "validation_accuracy", "lr")  # of its history


def publish(store: Store, *, mode: str, project: str | None, entity: str | None, seconds: float) -> str:
    """Create or update the dashboard of these results, and return a line that says where it is.

    The specification is written to dashboard.json each time, and that is all where W&B is not online.

    Raises:
        StoreError: there are no records yet.
        ConfigError, MissingError: mode is online and it cannot be, or the server refuses.
    """
    records, _ = store.read_all()
    if not records:
        raise StoreError(f"{store.folder}: no runs yet, so no dashboard; run `bench sweep` first")
    decided = tracking.resolve(mode, probe_seconds=seconds)
    is_online = decided.mode == "online"
    tracked = max(records, key=lambda record: record.started_at).config["track"]
    path = store.folder / DASHBOARD
    before = _read_before(path)
    project, entity = project or tracked["project"], entity or tracked["entity"]
    if entity is None:
        entity = tracking.default_entity() if is_online else before.get("entity")
    made = make_workspace(records, experiment=store.folder.name, project=project, entity=entity or "")
    same = (before.get("project"), before.get("entity")) == (project, entity)
    url = before.get("url") if same else None
    if is_online:
        url = _save(made, url)
    described = {"url": url, "project": project, "entity": entity, "spec": describe_workspace(made)}
    store.write_report(DASHBOARD, json.dumps(described, ensure_ascii=False, indent=1) + "\n")
    if is_online:
        return f"dashboard: {url}"
    return f"{path} written, nothing uploaded: {decided.reason}, then `bench dashboard` again"


def make_workspace(records: Sequence[Result], *, experiment: str, project: str, entity: str) -> Any:
    """Lay out one experiment's dashboard: what the methods cost and reach, which settings matter, curves.

    Settings are judged on validation, methods on the test split, as in the table.
    """
    from wandb_workspaces import expr
    from wandb_workspaces import workspaces as ws
    from wandb_workspaces.reports.v2 import interface as wr

    kinds = {str(record.memory.get("kind")) for record in records}
    memory = [field for kind, field in _MEMORY.items() if kind in kinds]
    by_method: Any = wr.Config("method.title")
    methods = [
        *(_scatter(field, "test_accuracy") for field in memory),
        *(
            wr.BarPlot(title=field, metrics=[field], groupby=by_method, groupby_aggfunc="mean")
            for field in (*memory, "train_seconds", "test_accuracy", "test_f1_macro", "trainable_parameters")
        ),
    ]
    columns = [
        *(
            wr.ParallelCoordinatesPlotColumn(wr.Config(name), log=name == "train.lr")
            for name in _HYPERPARAMETERS
        ),
        *(
            wr.ParallelCoordinatesPlotColumn(wr.SummaryMetric(name))
            for name in (*memory, "train_seconds", "validation_accuracy")
        ),
    ]
    settings: list[Any] = [
        wr.ParallelCoordinatesPlot(title="settings and what they come to", columns=columns),
        wr.ParameterImportancePlot(with_respect_to="validation_accuracy"),
    ]
    curves: list[Any] = [
        wr.LinePlot(title=name, x="step", y=[name], max_runs_to_show=100) for name in _CURVES
    ]
    return ws.Workspace(
        entity=entity,
        project=project,
        name=f"bench {experiment}",
        sections=[
            ws.Section(name="Methods", panels=methods, is_open=True),
            ws.Section(name="Settings", panels=settings, is_open=True),
            ws.Section(name="Training", panels=curves, is_open=True),
            ws.Section(name="Runs side by side", panels=[wr.RunComparer(diff_only="split")]),
        ],
        settings=ws.WorkspaceSettings(x_axis="step", max_runs=100),
        runset_settings=ws.RunsetSettings(
            filters=expr.And(expr.Metric("Group") == experiment),
            pinned_columns=[f"summary:{name}" for name in ("test_accuracy", "train_seconds", *memory)],
        ),
    )


def _scatter(x: str, y: str) -> Any:
    from wandb_workspaces.reports.v2 import interface as wr

    return wr.ScatterPlot(title=f"{y} against {x}", x=wr.SummaryMetric(x), y=wr.SummaryMetric(y))


def describe_workspace(workspace: Any) -> dict[str, Any]:
    """Write what W&B is sent, with places for the panels' random ids, so that a rerun writes the same."""
    model = workspace._to_model().spec
    spec: dict[str, Any] = json.loads(model.model_dump_json(by_alias=True, exclude_none=True))
    panels = [
        panel for section in spec["section"]["panelBankConfig"]["sections"] for panel in section["panels"]
    ]
    for place, panel in enumerate(panels):
        panel["__id__"] = f"bench-{place}"
    return spec


def _save(made: Any, url: str | None) -> str:
    """Update the dashboard at ``url`` if it is there, else make a new one; return its address on W&B."""
    from wandb_workspaces import workspaces as ws

    try:
        target = made
        if url is not None:
            with contextlib.suppress(ValueError):  # deleted on the server, or not in this project any more
                target = ws.Workspace.from_url(url)
                target.sections, target.name = made.sections, made.name
        target.save()
        return str(target.url)
    except Exception as error:  # wandb's own kinds, the network's, GraphQL's
        raise MissingError(
            f"bench dashboard: W&B did not take it ({tracking.describe_error(error)}); the API key must be "
            f"allowed to write to {made.entity}/{made.project}; track.mode=offline writes {DASHBOARD} alone"
        ) from None


def _read_before(path: Path) -> dict[str, Any]:
    """Read what an earlier call wrote; return an empty note without it."""
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return before if isinstance(before, dict) else {}


def browse(folder: Path) -> int:
    """Open wandb's terminal dashboard of the runs in ``folder``/wandb, and return its exit code.

    Raises:
        StoreError: there are no W&B runs.
        ConfigError: there is no terminal to draw in.
    """
    place = folder / "wandb"
    if not any(place.glob("offline-run-*")):
        raise StoreError(f"{place}: no offline runs of W&B; sweep with track.mode=offline to have some")
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise ConfigError("--offline: draws in a terminal, and this is none; `bench table` prints anywhere")
    return subprocess.run([sys.executable, "-m", "wandb", "leet", str(place)], check=False).returncode
