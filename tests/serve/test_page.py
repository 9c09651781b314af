"""The page in headless Chromium, with a WAV as its microphone."""

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import soundfile
from fastapi.testclient import TestClient
from playwright.sync_api import Browser, Page, sync_playwright
from subjects import CARD, Echo, ToneTranscriber, listening, sound, tones

from serve.access import digest
from serve.http_app import build_api
from serve.recognizer import LocalRecognizer
from serve.uploads import Limits

CHROMIUM = Path(os.environ.get("JASPER_CHROMIUM", "/usr/bin/chromium"))
LIMITS = Limits(2**20, 60.0)
WORDS = ["one", "nine", "two", "eight", "three", "seven", "four", "six"]
WATCH = """() => {
  window.watched = [];
  const transcript = document.querySelector("#transcript");
  new MutationObserver(() => watched.push(transcript.innerText)).observe(transcript, { childList: true });
}"""
needs_chromium = pytest.mark.skipif(
    not CHROMIUM.exists(), reason=f"{CHROMIUM} is not there: apt-get install chromium, or set JASPER_CHROMIUM"
)


def test_the_page_loads_nothing_from_elsewhere_and_says_so() -> None:
    with TestClient(build_api(Echo(), CARD, LIMITS, key_digests=(digest("one"),))) as client:
        page = client.get("/")
        assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
        assert "://" not in page.text
        for name in ("main.js", "live.js", "pictures.js", "transcript.js", "worklet.js", "style.css", "icon.svg"):
            file = client.get(f"/page/{name}")
            assert file.status_code == 200 and file.headers["x-content-type-options"] == "nosniff"
            assert "://" not in file.text.replace("http://www.w3.org/2000/svg", "")
        assert client.get("/page/../app.py").status_code == 404


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    microphone = tmp_path_factory.mktemp("sound") / "microphone.wav"
    soundfile.write(microphone, tones([1.0, *WORDS, 4.0]), 16000, subtype="PCM_16")
    flags = [
        "--no-sandbox",
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-audio-capture={microphone}%noloop",
        "--autoplay-policy=no-user-gesture-required",
    ]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=flags)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with listening(build_api(LocalRecognizer(ToneTranscriber()), CARD, LIMITS)) as address:
        yield address


def opened(browser: Browser, address: str, **options: Any) -> tuple[Page, list[str]]:
    """The page, and what goes wrong on it."""
    page = browser.new_context(permissions=["microphone"], **options).new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.goto(f"http://{address}/")
    until(lambda: page.inner_text("#model") == "Model jasper")
    return page, problems


def until(holds: Callable[[], bool], timeout_s: float = 60.0) -> None:
    end = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.05)


def words_on(page: Page) -> list[str]:
    return page.inner_text("#transcript").split()


def spoken_to(browser: Browser, address: str) -> tuple[Page, list[str]]:
    """A page whose microphone has said all words. Chromium's file plays in real time: a busy machine loses some of it,
    and then it is played once more."""
    for attempt in range(2):
        page, problems = opened(browser, address)
        page.evaluate(WATCH)
        page.click("#speak")
        try:
            until(lambda page=page: page.locator("#transcript button.word").count() == len(WORDS))  # type: ignore[misc]
            break
        except AssertionError:
            if attempt:
                raise
            page.context.close()
    return page, problems


@needs_chromium
def test_words_appear_while_they_are_spoken_and_are_those_of_the_file(browser: Browser, address: str) -> None:
    page, problems = spoken_to(browser, address)
    seen = [text.split() for text in page.evaluate("watched")]
    right = {len(words) for words in seen if words == WORDS[: len(words)]}
    assert len(right - {0, len(WORDS)}) >= 2, seen
    page.click("#speak")
    until(lambda: page.inner_text("#status") == f"{len(WORDS)} words")
    file = ToneTranscriber().transcribe([tones([*WORDS])])[0]
    assert words_on(page) == file.text.split() == WORDS
    assert page.locator("#player").is_visible() and not problems
    page.context.close()


@needs_chromium
def test_a_file_is_shown_heard_and_downloaded(browser: Browser, address: str, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "speech.wav", tones(["five", "six", 2.0, "seven"]), 16000)
    page, problems = opened(browser, address, viewport={"width": 390, "height": 844})
    page.set_input_files("#file", tmp_path / "speech.wav")
    until(lambda: page.locator("#transcript button.word").count() == 3)
    until(lambda: page.locator("#player").is_visible())
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.locator("#transcript button.word").nth(2).click()
    until(lambda: page.evaluate("document.querySelector('#player').currentTime") > 2.9)
    page.locator("#transcript button.word").nth(2).press("ArrowLeft")
    assert page.evaluate("document.activeElement.textContent") == "six"
    with page.expect_download() as download:
        page.click("#download-text")
    assert (download.value.suggested_filename, download.value.path().read_text()) == (
        "speech.txt", "five six\nseven\n",
    )  # fmt: skip
    with page.expect_download() as download:
        page.click("#download-srt")
    blocks = download.value.path().read_text().split("\n\n")
    assert [block.splitlines()[2] for block in blocks] == ["five six", "seven"]
    assert blocks[0].splitlines()[1].startswith("00:00:00,2")
    assert not problems
    page.context.close()


@needs_chromium
def test_a_file_that_is_no_audio_is_said_and_markup_stays_text(browser: Browser, address: str, tmp_path: Path) -> None:
    page, _ = opened(browser, address)
    odd = tmp_path / "<img src=x onerror=alert(1)>.wav"
    odd.write_bytes(b"no audio")
    page.set_input_files("#file", odd)
    until(lambda: page.locator("#problem").is_visible())
    assert "cannot be read as audio" in page.inner_text("#problem")
    assert page.locator("img").count() == 0
    page.context.close()


@needs_chromium
def test_a_key_is_sent_with_files_and_with_speech(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(sound(0.5))
    with listening(
        build_api(LocalRecognizer(ToneTranscriber()), CARD, LIMITS, key_digests=(digest("sk-1"),))
    ) as address:
        page, _ = opened(browser, address)
        page.set_input_files("#file", tmp_path / "a.wav")
        until(lambda: "API key" in page.inner_text("#problem"))
        page.click("#speak")
        until(lambda: "asks for an API key" in page.inner_text("#problem"))
        page.click("summary")
        page.fill("#key", "sk-1")
        page.set_input_files("#file", tmp_path / "a.wav")
        until(lambda: page.inner_text("#status") == "No words were heard.")
        page.click("#speak")
        until(lambda: page.inner_text("#status") == "Listening")
        assert json.loads(page.evaluate("JSON.stringify(sessionStorage)")) == {"api-key": "sk-1"}
        page.context.close()
