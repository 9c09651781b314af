"""Dashboards against Grafana's own types: the npm package @grafana/schema and TypeScript's compiler.

`make test-realpeer`; apt-get install nodejs npm. Packages go into a temporary folder; no script of theirs is run.
"""

import json
import shutil
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from jasper_ray.observe.dashboards import dashboard_json
from jasper_ray.observe.panels import DASHBOARDS

pytestmark = [
    pytest.mark.realpeer,
    pytest.mark.skipif(
        not (shutil.which("node") and shutil.which("npm")), reason="no npm here: apt-get install nodejs npm"
    ),
]
PACKAGES = ("@grafana/schema@13.2.3", "typescript@5.9")
OPTIONS = {
    "skipLibCheck": True, "strict": True, "noEmit": True, "module": "esnext", "moduleResolution": "bundler",
    "target": "es2022", "types": [],
}  # fmt: skip
RAW = "@grafana/schema/dist/esm/raw/composable"
HEAD = f"""import type {{ Dashboard }} from '@grafana/schema';
import type {{ Options as stat }} from '{RAW}/stat/panelcfg/x/StatPanelCfg_types.gen';
import type {{ Options as timeseries, FieldConfig }} from '{RAW}/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen';
// In JSON, members of an enumeration are their values.
type Value<T extends number> = T | (`${{T}}` extends `${{infer N extends number}}` ? N : never);
type Json<T> = T extends string ? `${{T}}` : T extends number ? Value<T> : T extends (infer E)[] ? Json<E>[]
  : T extends object ? {{ [K in keyof T]: Json<T[K]> }} : T;
// Defaults may be left out.
type Deep<T> = T extends (infer E)[] ? Deep<E>[] : T extends object ? {{ [K in keyof T]?: Deep<T[K]> }} : T;
"""

Compile = Callable[..., str]


@pytest.fixture(scope="module")
def compile_dashboards(tmp_path_factory: pytest.TempPathFactory) -> Compile:
    """What the compiler complains of in some dashboards; nothing if they have Grafana's types."""
    folder = tmp_path_factory.mktemp("types")
    (folder / "package.json").write_text('{"private": true}')
    install = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", *PACKAGES]
    done = subprocess.run(install, cwd=folder, capture_output=True, text=True, timeout=240)
    if done.returncode:
        pytest.skip(f"npm cannot install {', '.join(PACKAGES)}: {done.stderr.strip().splitlines()[-1:]}")
    (folder / "tsconfig.json").write_text(json.dumps({"compilerOptions": OPTIONS, "files": ["dashboards.ts"]}))

    def compile_all(*dashboards: Any) -> str:
        (folder / "dashboards.ts").write_text(typescript(dashboards))
        command = ["node", "node_modules/typescript/bin/tsc", "-p", "."]
        compiled = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240)
        assert bool(compiled.returncode) == bool(compiled.stdout), compiled.stderr
        return compiled.stdout

    return compile_all


def typescript(dashboards: Any) -> str:
    """A program whose values are the dashboards, and each panel's options by the type of its plugin."""
    lines = [HEAD]
    for number, dashboard in enumerate(dashboards):
        lines.append(f"export const dashboard{number}: Json<Dashboard> = {json.dumps(dashboard)};")
        for panel in dashboard["panels"]:
            name, kind = f"panel{number}_{panel['id']}", panel["type"]
            lines.append(f"export const {name}: Deep<Json<{kind}>> = {json.dumps(panel['options'])};")
            if kind == "timeseries":
                custom = json.dumps(panel["fieldConfig"]["defaults"]["custom"])
                lines.append(f"export const {name}_field: Deep<Json<FieldConfig>> = {custom};")
    return "\n".join(lines) + "\n"


def test_every_dashboard_has_grafanas_types(compile_dashboards: Compile) -> None:
    assert compile_dashboards(*map(dashboard_json, DASHBOARDS)) == ""


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("panels", 0, "gridPos", "w"), "6"),
        (("panels", 0, "titel"), "unknown key"),
        (("panels", 0, "options", "colorMode"), "colourful"),
        (("templating", "list", 1, "refresh"), "often"),
        (("graphTooltip",), 7),
    ],
    ids=lambda value: ".".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_a_mistake_is_found(compile_dashboards: Compile, place: tuple[Any, ...], value: Any) -> None:
    dashboard = json.loads(json.dumps(dashboard_json(DASHBOARDS[0])))
    inner = dashboard
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    assert "error TS" in compile_dashboards(dashboard)
