"""NVIDIA's own client against a real server."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby

import numpy as np
import pytest
from subjects import BUSY, CARD, FAILS, Echo, listening, sound

from jasper_ray.inference.transcriber import Transcript
from serve.http_app import build_api
from serve.uploads import Limits

client_library = pytest.importorskip("tritonclient.http")
InferInput, InferRequestedOutput = client_library.InferInput, client_library.InferRequestedOutput
InferenceServerException = client_library.InferenceServerException
LIMITS = Limits(1_000_000, 2.0)


@pytest.fixture(scope="module")
def client() -> Iterator[client_library.InferenceServerClient]:
    with listening(build_api(Echo(), CARD, LIMITS)) as address:
        client = client_library.InferenceServerClient(address)
        yield client
        client.close()


def tensor(name: str, array: np.ndarray, datatype: str, *, binary: bool = True) -> InferInput:
    wanted = InferInput(name, list(array.shape), datatype)
    wanted.set_data_from_numpy(array, binary_data=binary)
    return wanted


def audio(*lengths: int) -> np.ndarray:
    rows = np.zeros((len(lengths), max(lengths)), np.float32)
    return rows + np.float32(0.01)


def test_the_server_and_its_models_are_ready_and_described(client: client_library.InferenceServerClient) -> None:
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("jasper")
    assert not client.is_model_ready("other")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    metadata = client.get_model_metadata("jasper", "1")
    assert {"name": "AUDIO", "datatype": "FP32", "shape": [-1, -1]} in metadata["inputs"]
    assert {"name": "TRANSCRIPT", "datatype": "BYTES", "shape": [-1, 1]} in metadata["outputs"]


@pytest.mark.parametrize("binary", [True, False])
def test_padded_samples_give_a_transcript_per_row(client: client_library.InferenceServerClient, binary: bool) -> None:
    lengths = np.array([[3000], [5000]], np.int32)
    inputs = [
        tensor("AUDIO", audio(3000, 5000), "FP32", binary=binary),
        tensor("AUDIO_LENGTH", lengths, "INT32", binary=binary),
    ]
    outputs = [InferRequestedOutput(name, binary_data=binary) for name in ("CONFIDENCE", "TRANSCRIPT")]
    result = client.infer("jasper", inputs, outputs=outputs, request_id="7")
    texts = result.as_numpy("TRANSCRIPT")
    assert texts.shape == (2, 1)
    assert [text if isinstance(text, str) else text.decode() for text in texts[:, 0]] == [
        "3000 samples", "5000 samples"
    ]  # fmt: skip
    assert result.as_numpy("CONFIDENCE").tolist() == [[0.5], [0.5]]
    assert result.get_response()["id"] == "7"


def test_files_go_as_bytes_and_all_outputs_come_unasked(client: client_library.InferenceServerClient) -> None:
    files = np.array([[sound(0.5)], [sound(0.25, 8000, 2, "FLAC")]], dtype=object)
    result = client.infer("jasper", [tensor("WAV", files, "BYTES")])
    assert result.as_numpy("TRANSCRIPT")[:, 0].tolist() == [b"8000 samples", b"4000 samples"]
    assert result.as_numpy("CONFIDENCE").shape == (2, 1)


def test_nvidias_ensemble_answers_with_label_ids_that_its_client_collapses() -> None:
    class Speaks(Echo):
        async def transcribe(self, waveform: np.ndarray) -> Transcript:
            return replace(await super().transcribe(waveform), text="all good")

    with listening(build_api(Speaks(), CARD, LIMITS)) as address:
        client = client_library.InferenceServerClient(address)
        config = client.get_model_config("jasper-onnx-ensemble")
        assert [one["name"] for one in config["input"]] == ["AUDIO_SIGNAL", "NUM_SAMPLES"]
        assert config["input"][0] == {"name": "AUDIO_SIGNAL", "data_type": "TYPE_FP16", "dims": [-1]}
        assert config["max_batch_size"] == 8
        inputs = [
            tensor("AUDIO_SIGNAL", audio(4000, 4000).astype(np.float16), "FP16"),
            tensor("NUM_SAMPLES", np.array([[4000], [4000]], np.int32), "INT32"),
        ]
        result = client.infer("jasper-onnx-ensemble", inputs, outputs=[InferRequestedOutput("TRANSCRIPT")])
        ids = result.as_numpy("TRANSCRIPT")
        client.close()
    assert ids.dtype == np.int32 and ids.shape[1] % 8 == 0
    labels = [*CARD.alphabet, ""]
    assert ["".join(labels[label] for label, _ in groupby(row)) for row in ids] == ["all good", "all good"]


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ([tensor("SOUND", audio(100), "FP32")], "there must be an input AUDIO of FP32"),
        ([tensor("AUDIO", audio(100) * np.nan, "FP32")], "finite samples"),
        ([tensor("AUDIO", audio(50_000), "FP32")], "lasts 3.1 s, the limit is 2 s"),
        ([tensor("AUDIO", audio(*[10] * 65), "FP32")], "1 to 64 utterances, got 65"),
        ([tensor("AUDIO", np.zeros((2, 0), np.float32), "FP32")], "from 1 to 0"),
        (
            [tensor("AUDIO", audio(100), "FP32"), tensor("AUDIO_LENGTH", np.array([101], np.int32), "INT32")],
            "a number from 1 to 100",
        ),
        ([tensor("WAV", np.array([b"no audio"], dtype=object), "BYTES")], "cannot be read as audio"),
        ([tensor("AUDIO", audio(FAILS), "FP32")], "The server failed: RuntimeError"),
        ([tensor("AUDIO", audio(BUSY), "FP32")], "The service is busy"),
    ],
)
def test_errors_are_the_clients_own_exception(
    client: client_library.InferenceServerClient, inputs: list[InferInput], says: str
) -> None:
    with pytest.raises(InferenceServerException) as caught:
        client.infer("jasper", inputs)
    assert says in caught.value.message()


def test_what_there_is_not_is_named(client: client_library.InferenceServerClient) -> None:
    inputs = [tensor("AUDIO", audio(100), "FP32")]
    with pytest.raises(InferenceServerException, match="there is no model 'other'"):
        client.infer("other", inputs)
    with pytest.raises(InferenceServerException, match="there is no output 'TEXT'"):
        client.infer("jasper", inputs, outputs=[InferRequestedOutput("TEXT")])
    with pytest.raises(InferenceServerException, match="compressed"):
        client.infer("jasper", inputs, request_compression_algorithm="gzip")
