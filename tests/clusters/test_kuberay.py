"""clusters/kuberay against Kubernetes' schemas, and KubeRay's where KUBERAY_CRDS names a folder with its CRDs."""

import copy
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

FOLDER = Path(__file__).parents[2] / "clusters" / "kuberay"
CLUSTER_AT = {"RayCluster": (), "RayJob": ("rayClusterSpec",), "RayService": ("rayClusterConfig",)}
KUBERNETES = "1.30"

Manifest = dict[str, Any]


def manifests() -> list[Manifest]:
    return [next(iter(yaml.safe_load_all(path.read_text()))) for path in sorted(FOLDER.glob("ray*.yaml"))]


def cluster_of(manifest: Manifest) -> Manifest:
    spec = manifest["spec"]
    for key in CLUSTER_AT[manifest["kind"]]:
        spec = spec[key]
    return dict(spec)


def groups(cluster: Manifest) -> Iterator[Manifest]:
    yield cluster["headGroupSpec"]
    yield from cluster["workerGroupSpecs"]


def strict(schema: Any) -> Any:
    """A CRD's schema that refuses unknown keys, as the API server does when asked to."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {key: strict(value) for key, value in schema.items()}
    if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        schema.setdefault("additionalProperties", False)
    if schema.get("x-kubernetes-int-or-string"):
        schema.pop("type", None)
    return schema


@pytest.fixture(params=manifests(), ids=lambda manifest: str(manifest["kind"]))
def manifest(request: pytest.FixtureRequest) -> Manifest:
    return copy.deepcopy(request.param)


def test_pods_are_what_kubernetes_takes(manifest: Manifest) -> None:
    if importlib.util.find_spec("kubernetes_validate") is None:
        pytest.skip("kubernetes-validate is not installed: pip install kubernetes-validate")
    import kubernetes_validate

    for group in groups(cluster_of(manifest)):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "node"}, **group["template"]}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)
        pod["spec"]["containers"][0]["resource"] = {}
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(pod, KUBERNETES, strict=True)


def test_manifests_are_what_kuberay_takes(manifest: Manifest) -> None:
    if "KUBERAY_CRDS" not in os.environ:
        pytest.skip("set KUBERAY_CRDS to a folder with KubeRay's CRDs (ray-operator/config/crd/bases)")
    paths = Path(os.environ["KUBERAY_CRDS"]).rglob("*.yaml")
    crds = [document for path in paths for document in yaml.safe_load_all(path.read_text())]
    (crd,) = [crd for crd in crds if crd and crd.get("spec", {}).get("names", {}).get("kind") == manifest["kind"]]
    (version,) = [version for version in crd["spec"]["versions"] if version["name"] == "v1"]
    jsonschema.validate(manifest, strict(version["schema"]["openAPIV3Schema"]))


def test_every_pod_asks_for_the_token_and_holds_none(manifest: Manifest) -> None:
    for group in groups(cluster_of(manifest)):
        (container,) = group["template"]["spec"]["containers"]
        variables = {variable["name"]: variable for variable in container["env"]}
        assert variables["RAY_AUTH_MODE"]["value"] == "token"
        assert "value" not in variables["RAY_AUTH_TOKEN"]
        assert variables["RAY_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"]["name"] == "jasper-ray-token"


def test_all_three_have_the_same_nodes() -> None:
    first, *others = [cluster_of(manifest) for manifest in manifests()]
    assert len(others) == 2
    assert all(other == first for other in others)


def test_shared_memory_is_memory_and_containers_have_no_rights_to_spare(manifest: Manifest) -> None:
    for group in groups(cluster_of(manifest)):
        pod = group["template"]["spec"]
        shared = next(volume for volume in pod["volumes"] if volume["name"] == "shm")
        assert shared["emptyDir"]["medium"] == "Memory"
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["containers"][0]["securityContext"]["capabilities"]["drop"] == ["ALL"]


def test_the_services_application_is_one_that_serve_can_build() -> None:
    service = next(manifest for manifest in manifests() if manifest["kind"] == "RayService")
    (application,) = yaml.safe_load(service["spec"]["serveConfigV2"])["applications"]
    module, _, name = application["import_path"].partition(":")
    source = Path(__file__).parents[2] / f"{module.replace('.', '/')}.py"
    assert f"def {name}(" in source.read_text()
