import os
from collections.abc import Iterator
from typing import Any

import pytest
from grafana_double import TOKEN, GrafanaDouble, running

from jasper_ray.errors import ConfigError
from jasper_ray.observe.dashboards import TAG, build_tag, dashboard_json
from jasper_ray.observe.grafana import Grafana, GrafanaError, Pushed
from jasper_ray.observe.panels import DASHBOARDS

ALL = tuple(dashboard.uid for dashboard in DASHBOARDS)


@pytest.fixture
def double() -> Iterator[GrafanaDouble]:
    with running(GrafanaDouble()) as server:
        yield server


def push(url: str, *, token: str = TOKEN, overwrite: bool = False, **changes: Any) -> Pushed:
    dashboards = [{**dashboard_json(dashboard), **changes} for dashboard in DASHBOARDS]
    return Grafana(url, token).push(dashboards, prometheus="http://prometheus:9090", overwrite=overwrite)


def test_the_first_push_makes_folder_source_and_dashboards_and_the_second_nothing(double: GrafanaDouble) -> None:
    assert push(double.url).created == ALL
    assert list(double.folders) == ["jasper-ray"]
    assert double.sources["jasper-prometheus"]["url"] == "http://prometheus:9090"
    writes = [request for request in double.requests if request[0] != "GET"]
    assert push(double.url).unchanged == ALL
    assert [request for request in double.requests if request[0] != "GET"] == writes


def test_a_newer_release_replaces_the_dashboards_of_an_older_one(double: GrafanaDouble) -> None:
    push(double.url)
    for kept in double.dashboards.values():  # as an older release would have written it
        older = {key: value for key, value in kept["dashboard"].items() if key not in ("id", "version", "tags")}
        older["title"] = "older"
        kept["dashboard"] |= {"title": "older", "tags": [TAG, build_tag(older)]}
    assert push(double.url).updated == ALL
    assert all(kept["dashboard"]["title"] != "older" for kept in double.dashboards.values())


def test_what_somebody_changed_in_grafana_is_kept_unless_told_otherwise(double: GrafanaDouble) -> None:
    push(double.url)
    kept = double.dashboards["jasper-training"]["dashboard"]
    kept["panels"] = kept["panels"][:1]
    with pytest.raises(GrafanaError, match=r"'Jasper: training' was changed in Grafana.*--overwrite"):
        push(double.url)
    assert push(double.url, overwrite=True).updated == ("jasper-training",)


def test_another_dashboard_under_our_uid_is_not_touched(double: GrafanaDouble) -> None:
    double.dashboards["jasper-data"] = {"dashboard": {"uid": "jasper-data", "title": "Mine", "tags": [], "version": 1}}
    with pytest.raises(GrafanaError, match=r"another dashboard 'Mine' under the uid 'jasper-data'"):
        push(double.url, overwrite=True)


def test_a_wrong_token_is_said_to_be_one(double: GrafanaDouble) -> None:
    with pytest.raises(GrafanaError, match=r"refuses the token.*Service accounts"):
        push(double.url, token="glsa_wrong")


def test_an_old_server_is_refused_by_its_version(double: GrafanaDouble) -> None:
    double.version = "8.5.27"
    with pytest.raises(GrafanaError, match=r"is Grafana 8.5.27, these dashboards need 9 or newer"):
        push(double.url)


def test_a_server_that_is_not_there_is_named() -> None:
    with pytest.raises(GrafanaError, match=r"http://127.0.0.1:9 does not answer"):
        push("http://127.0.0.1:9")


@pytest.mark.parametrize("url", ["grafana.example.com", "ftp://x", "https://"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="must be http:// or https:// and a host"):
        Grafana(url, TOKEN)


@pytest.mark.realpeer
def test_a_real_grafana_takes_the_dashboards_twice() -> None:
    if not os.environ.get("GRAFANA_URL"):
        pytest.skip("GRAFANA_URL (and GRAFANA_TOKEN) name no Grafana")
    url, token = os.environ["GRAFANA_URL"], os.environ["GRAFANA_TOKEN"]
    push(url, token=token, overwrite=True)
    assert push(url, token=token).unchanged == ALL
