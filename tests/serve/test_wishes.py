from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from fastapi.testclient import TestClient
from subjects import CARD, LIMITS, Echo, sound

from serve.http_app import build_api
from serve.wishes import Wish, wish_of

LETTERS = " abcdefghijklmnopqrstuvwxyz'"


@pytest.fixture
def client() -> Iterator[TestClient]:
    with TestClient(build_api(Echo(), CARD, LIMITS), raise_server_exceptions=False) as client:
        yield client


def post(client: TestClient, **fields: Any) -> Any:
    files = {"file": ("a.wav", sound())}
    return client.post("/v1/audio/transcriptions", files=files, data={"model": "jasper", **fields})


def wish(decoding: str = "", num_best: int = 1, hotwords: str = "", default: str = "greedy") -> Wish | None:
    return wish_of(decoding=decoding, num_best=num_best, hotwords=hotwords, alphabet=LETTERS, default=default)


def test_a_request_is_greedy_unless_it_or_the_service_asks_for_a_search() -> None:
    assert wish() is None and wish("greedy", default="beam") is None
    assert wish("beam") == Wish() and wish(default="beam") == Wish(explicit=False)
    assert wish(num_best=3) == Wish(3)
    assert wish(hotwords='{"jasper  ray": 5}') == Wish(1, {"jasper ray": 5.0})


def test_alternatives_and_hot_words_of_a_request_reach_the_search(client: TestClient) -> None:
    reply = post(client, num_best="2", hotwords='{"jasper": 5}').json()
    assert reply["alternatives"] == [
        {"text": "{'jasper': 5.0} 0", "score": 0.0, "lm_score": -0.5},
        {"text": "{'jasper': 5.0} 1", "score": -1.0, "lm_score": -0.5},
    ]
    assert "alternatives" not in post(client).json()
    verbose = post(client, num_best="2", response_format="verbose_json").json()
    assert len(verbose["alternatives"]) == 2


@pytest.mark.parametrize(
    ("fields", "param", "reason"),
    [
        ({"decoding": "viterbi"}, "decoding", "use greedy or beam"),
        ({"num_best": "0"}, "num_best", "from 1 to 50"),
        ({"hotwords": "jasper"}, "hotwords", "a JSON object such as"),
        ({"hotwords": '{"jasper": "much"}'}, "hotwords", "its weight must be a number"),
        ({"hotwords": '{"Jasper": 1}'}, "hotwords", "has 'J', which the model cannot write"),
        ({"hotwords": '{" ": 1}'}, "hotwords", "is empty"),
        ({"hotwords": '{"a": 1}', "decoding": "greedy"}, "hotwords", "needs a beam search"),
    ],
)
def test_a_wrong_wish_is_a_400_that_names_the_field(
    client: TestClient, fields: dict[str, str], param: str, reason: str
) -> None:
    reply = post(client, **fields)
    assert reply.status_code == 400, reply.text
    assert reply.json()["error"]["param"] == param and reason in reply.json()["error"]["message"]


def test_the_card_says_what_is_done_by_default() -> None:
    with TestClient(build_api(Echo(), replace(CARD, decoding="beam"), LIMITS)) as client:
        assert "alternatives" in post(client).json()
        assert "alternatives" not in post(client, decoding="greedy").json()
