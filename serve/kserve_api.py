"""The KServe v2 inference protocol (Triton's HTTP API): health, metadata, infer.

Errors are `{"error": "text"}`, made in `serve/errors.py`.
"""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from fastapi.responses import JSONResponse, Response

from jasper_ray.inference.transcriber import Transcript
from serve.errors import ApiError
from serve.kserve_models import KserveModel, Tensor, kserve_models
from serve.kserve_tensors import BINARY_HEADER, encode_reply, parse_request
from serve.recognizer import ModelCard, Recognizer
from serve.uploads import Limits

VERSION = "1"
SERVER = {"name": "jasper_ray", "version": "2", "extensions": ["binary_tensor_data", "model_configuration"]}
BAD: dict[int | str, dict[str, Any]] = {404: {"description": "No such model"}}
INFER_BODY = {
    "requestBody": {
        "required": True,
        "description": "JSON; or JSON and raw tensors, with the header Inference-Header-Content-Length",
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["inputs"],
                    "properties": {
                        "id": {"type": "string"},
                        "inputs": {
                            "type": "array",
                            "minItems": 1,
                            "items": {
                                "type": "object",
                                "required": ["name", "shape", "datatype", "data"],
                                "properties": {
                                    "name": {"type": "string", "enum": ["AUDIO", "AUDIO_LENGTH"]},
                                    "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
                                    "datatype": {"type": "string", "enum": ["FP32", "INT32"]},
                                    "data": {"type": "array", "items": {"type": "number"}},
                                },
                            },
                        },
                    },
                }
            },
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


def kserve_routes(recognizer: Recognizer, card: ModelCard, limits: Limits) -> APIRouter:
    """The routes under `/v2`.

    Args:
        recognizer: Takes the waveforms, each on its own.
        card: The model.
        limits: Larger requests are refused.
    """
    models = kserve_models(recognizer, card, limits)
    routes = APIRouter()
    known = Path(json_schema_extra={"enum": list(models)})
    _add_metadata(routes, recognizer, models)

    @routes.post(
        "/v2/models/{name}/infer", responses={**BAD, 400: {}, 413: {}, 415: {}, 429: {}}, openapi_extra=INFER_BODY
    )
    @routes.post("/v2/models/{name}/versions/{version}/infer", include_in_schema=False)
    async def infer(request: Request, name: Annotated[str, known], version: str = VERSION) -> Response:
        model = _find(models, name, version)
        if request.headers.get("content-encoding", "identity") != "identity":
            raise ApiError(415, "compressed requests are not read: send it without content-encoding")
        parsed = parse_request(await request.body(), request.headers.get(BINARY_HEADER), raw_input="WAV")
        waveforms = await model.waveforms(parsed)
        results = await asyncio.gather(*map(recognizer.pick().transcribe, waveforms), return_exceptions=True)
        transcripts = []
        for result in results:
            if not isinstance(result, Transcript):
                raise result
            transcripts.append(result)
        body, header_length = encode_reply(name, version, parsed, model.reply(transcripts))
        if header_length is None:
            return Response(body, media_type="application/json")
        headers = {BINARY_HEADER: str(header_length)}
        return Response(body, media_type="application/octet-stream", headers=headers)

    return routes


def _add_metadata(routes: APIRouter, recognizer: Recognizer, models: dict[str, KserveModel]) -> None:
    known = Path(json_schema_extra={"enum": list(models)})

    @routes.get("/v2")
    async def server() -> dict[str, Any]:
        return SERVER

    @routes.get("/v2/health/live")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @routes.get("/v2/health/ready", responses={400: {"description": "The model gives no transcript"}})
    async def ready() -> JSONResponse:
        try:
            async with asyncio.timeout(10):
                await recognizer.check()
        except Exception:  # whatever it is, it is the answer to the question
            return JSONResponse({"live": True, "ready": False}, 400)
        return JSONResponse({"live": True, "ready": True})

    @routes.get("/v2/models/{name}", responses=BAD)
    @routes.get("/v2/models/{name}/versions/{version}", include_in_schema=False)
    async def metadata(name: Annotated[str, known], version: str = VERSION) -> dict[str, Any]:
        model = _find(models, name, version)
        return {
            "name": name,
            "versions": [VERSION],
            "platform": "jasper_ray",
            "inputs": [_described(tensor) for tensor in model.inputs],
            "outputs": [_described(tensor) for tensor in model.outputs],
        }

    @routes.get("/v2/models/{name}/ready", responses=BAD)
    @routes.get("/v2/models/{name}/versions/{version}/ready", include_in_schema=False)
    async def model_ready(name: Annotated[str, known], version: str = VERSION) -> dict[str, Any]:
        _find(models, name, version)
        return {"name": name, "ready": True}

    @routes.get("/v2/models/{name}/config", responses=BAD)
    @routes.get("/v2/models/{name}/versions/{version}/config", include_in_schema=False)
    async def config(name: Annotated[str, known], version: str = VERSION) -> dict[str, Any]:
        """Triton's extension, which NVIDIA's client asks before it sends."""
        model = _find(models, name, version)
        return {
            "name": name,
            "platform": "ensemble",
            "max_batch_size": model.max_rows,
            "input": [_configured(tensor) for tensor in model.inputs],
            "output": [_configured(tensor) for tensor in model.outputs],
        }


def _find(models: dict[str, KserveModel], name: str, version: str) -> KserveModel:
    if name not in models or version != VERSION:
        raise ApiError(404, f"there is no model {name!r} of version {version}: there are {', '.join(models)}")
    return models[name]


def _described(tensor: Tensor) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": [-1, *tensor.shape]}


def _configured(tensor: Tensor) -> dict[str, Any]:
    kind = "STRING" if tensor.datatype == "BYTES" else tensor.datatype
    return {"name": tensor.name, "data_type": f"TYPE_{kind}", "dims": list(tensor.shape)}
