"""Dashboards into a Grafana server through the package grafana-api; the same push again changes nothing."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from grafana_api.grafana_api import GrafanaClientError, GrafanaException, GrafanaUnauthorizedError
from grafana_api.grafana_face import GrafanaFace
from requests.exceptions import RequestException

from jasper_ray.errors import ConfigError, JasperRayError
from jasper_ray.observe.dashboards import TAG, build_tag

FOLDER_UID, FOLDER_TITLE = "jasper-ray", "jasper_ray"
SOURCE_UID, SOURCE_NAME = "jasper-prometheus", "Jasper Prometheus"
OLDEST_MAJOR = 9
"""The first with data sources by uid and folders by uid as used here."""
TIMEOUT_S = 10.0


class GrafanaError(JasperRayError):
    """Grafana cannot be reached, or does not do what it was asked for."""


@dataclass(frozen=True)
class Pushed:
    """What a push did."""

    folder: str
    created: tuple[str, ...]
    updated: tuple[str, ...]
    unchanged: tuple[str, ...]


class Grafana:
    """A server.

    Args:
        url: For instance `https://grafana.example.com/grafana`.
        token: Of a service account with the role Editor, Admin if the data source is to be made.

    Raises:
        ConfigError: The URL is none.
    """

    def __init__(self, url: str, token: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"Grafana's URL must be http:// or https:// and a host, got {url!r}")
        if not token:
            raise ConfigError("Grafana wants a token of a service account: set GRAFANA_TOKEN")
        self._url = url
        path = parts.path.strip("/")
        self._api = GrafanaFace(
            token,
            host=parts.hostname,
            port=parts.port,
            protocol=parts.scheme,
            url_path_prefix=f"{path}/" if path else "",
            timeout=TIMEOUT_S,
        )

    def push(self, dashboards: Iterable[Mapping[str, Any]], *, prometheus: str | None, overwrite: bool) -> Pushed:
        """Make the folder and the data source if they are not there, and put dashboards into the folder.

        Args:
            dashboards: As `dashboard_json` gives them.
            prometheus: Address of the data source, as Grafana reaches it; none: make no data source.
            overwrite: Replace dashboards that somebody changed in Grafana.

        Raises:
            GrafanaError: Says what was asked, what the server said and what to do.
        """
        try:
            self._require_version()
            self._make_folder()
            if prometheus is not None:
                self._make_source(prometheus)
            done: dict[str, list[str]] = {"created": [], "updated": [], "unchanged": []}
            for dashboard in dashboards:
                done[self._put(dashboard, overwrite=overwrite)].append(str(dashboard["uid"]))
        except GrafanaUnauthorizedError as error:
            raise GrafanaError(
                f"{self._url} refuses the token: it may have expired, or be of another server. Make one under "
                "Administration, Service accounts"
            ) from error
        except GrafanaException as error:
            raise GrafanaError(f"{self._url}: {error.message}{_advice(error)}") from error
        except (RequestException, ValueError) as error:  # ValueError: an answer that is no JSON, of no Grafana
            raise GrafanaError(f"{self._url} does not answer as Grafana does: {error}") from error
        return Pushed(FOLDER_TITLE, *(tuple(done[key]) for key in ("created", "updated", "unchanged")))

    def _require_version(self) -> None:
        version = str(self._api.api.GET("/health").get("version", ""))
        major = version.partition(".")[0]
        if major.isdigit() and int(major) < OLDEST_MAJOR:
            raise GrafanaError(f"{self._url} is Grafana {version}, these dashboards need {OLDEST_MAJOR} or newer")

    def _make_folder(self) -> None:
        if self._found(lambda: self._api.folder.get_folder(FOLDER_UID)) is None:
            self._api.folder.create_folder(FOLDER_TITLE, FOLDER_UID)

    def _make_source(self, prometheus: str) -> None:
        wanted = {
            "name": SOURCE_NAME,
            "uid": SOURCE_UID,
            "type": "prometheus",
            "access": "proxy",
            "url": prometheus,
            "jsonData": {"httpMethod": "POST"},
        }
        there = self._found(lambda: self._api.api.GET(f"/datasources/uid/{SOURCE_UID}"))
        if there is None:
            self._api.datasource.create_datasource(wanted)
        elif there.get("url") != prometheus:
            self._api.api.PUT(f"/datasources/uid/{SOURCE_UID}", json=wanted)

    def _put(self, dashboard: Mapping[str, Any], *, overwrite: bool) -> str:
        there = self._found(lambda: self._api.dashboard.get_dashboard(dashboard["uid"]))
        body = dict(dashboard)
        if there is not None:
            current = there["dashboard"]
            tags = current.get("tags", [])
            if TAG not in tags:
                raise GrafanaError(
                    f"{self._url} has another dashboard {current.get('title')!r} under the uid {dashboard['uid']!r}: "
                    "rename or delete it there first"
                )
            if all(current.get(key) == value for key, value in body.items()):
                return "unchanged"
            if build_tag(current) not in tags and not overwrite:
                raise GrafanaError(
                    f"{self._url}: the dashboard {current.get('title')!r} was changed in Grafana. Save it there under "
                    "another name if it is to be kept, then push with --overwrite"
                )
            body |= {"id": current.get("id"), "version": current.get("version")}
        request = {"dashboard": body, "folderUid": FOLDER_UID, "overwrite": overwrite, "message": "jasper_ray"}
        self._api.dashboard.update_dashboard(request)
        return "updated" if there is not None else "created"

    def _found(self, ask: Any) -> dict[str, Any] | None:
        try:
            return dict(ask())
        except GrafanaClientError as error:
            if error.status_code == 404:
                return None
            raise


def _advice(error: GrafanaException) -> str:
    if error.status_code == 403:
        return ". The token's role is too small: Editor for dashboards, Admin with --prometheus"
    if error.status_code in (409, 412):
        return ". Somebody saved it at the same moment: push again"
    return ""
