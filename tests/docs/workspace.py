"""A folder in which the commands of the documentation find what they name: CONFIG.yaml, RUN, BUNDLE, speech.wav."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import soundfile
import yaml
from tones import CONFIG_FILE, RATE_HZ, run_workers, tone, write_corpus

from jasper_ray.config.data import CorpusConfig
from jasper_ray.config.files import load_run_config
from jasper_ray.config.speech import ENGLISH_ALPHABET
from jasper_ray.data.preparation import prepare_dataset

REPOSITORY = Path(__file__).parents[2]
SOURCES = ("jobs", "jasper_ray", "serve", "tuning", "benchmarks", "clusters")
SERVER = "python -m jobs.serve "
SERVER_URL = "http://127.0.0.1:8000"


def make_workspace(folder: Path) -> None:
    """Corpora, datasets, a trained run and its bundle."""
    folder.mkdir()
    for name in SOURCES:
        (folder / name).symlink_to(REPOSITORY / name)
    shutil.copytree(REPOSITORY / "monitoring", folder / "monitoring")
    (folder / ".venv").symlink_to(Path(sys.executable).parents[1])
    for name, source, count, seed in (("DATASET", "SOURCE", 24, 1), ("DEV_DATASET", "corpus", 12, 2)):
        corpus = write_corpus(folder / source, count, seed)
        prepare_dataset(
            [CorpusConfig(source=str(corpus), format="jsonl")], str(folder / name), alphabet=ENGLISH_ALPHABET
        )
    _write_librispeech(folder / "corpora" / "LibriSpeech" / "train-clean-100")
    _write_sounds(folder)
    texts = [json.loads(line)["text"] for line in (folder / "SOURCE" / "manifest.jsonl").read_text().splitlines()]
    (folder / "text.txt").write_text("".join(f"{first} {second}\n" for first in texts for second in texts))
    write_config(folder, "DATASET", "DEV_DATASET")
    run_workers(load_run_config(folder / "CONFIG.yaml", [f"output={folder}/RUN", "training.epochs=20"]), 1)
    for copy in ("BUNDLE", "OTHER_BUNDLE", "runs/demo/bundle"):
        shutil.copytree(folder / "RUN" / "bundle", folder / copy)
    (folder / "runs" / "demo" / "data").mkdir()
    (folder / "runs" / "demo" / "data" / "evaluation").symlink_to(folder / "DEV_DATASET")


def write_config(folder: Path, train: str, evaluation: str) -> None:
    """CONFIG.yaml: the tones' run, English letters, three epochs, into RUN."""
    config = yaml.safe_load(CONFIG_FILE.read_text())
    del config["text"]
    config["output"] = "RUN"
    config["data"] = {
        "train": [{"path": _absolute(folder, train)}], "evaluation": [{"path": _absolute(folder, evaluation)}],
        "cache_dir": str(folder / "cache"),
    }  # fmt: skip
    config["training"] |= {"epochs": 3, "evaluate_every_epochs": 1, "log_utterances": False}
    config["cluster"] = {"num_workers": 1, "cpus_per_worker": 0.5}
    (folder / "CONFIG.yaml").write_text(yaml.safe_dump(config))


def _absolute(folder: Path, place: str) -> str:
    return place if "://" in place else str(folder / place)


def _write_librispeech(folder: Path) -> None:
    chapter = folder / "84" / "121123"
    chapter.mkdir(parents=True)
    rng, lines = np.random.default_rng(3), []
    for number in range(12):
        text = "".join(rng.choice(["a", "b"], size=4))
        soundfile.write(chapter / f"84-121123-{number:04d}.flac", tone(text, rng), RATE_HZ, subtype="PCM_16")
        lines.append(f"84-121123-{number:04d} {text.upper()}\n")
    (chapter / "84-121123.trans.txt").write_text("".join(lines))


def _write_sounds(folder: Path) -> None:
    rng = np.random.default_rng(4)
    for name, length in (("musan/noise", RATE_HZ), ("RIRS_NOISES/simulated_rirs", RATE_HZ // 4)):
        (folder / name).mkdir(parents=True)
        for number in range(3):
            sound = 0.1 * rng.standard_normal(length) * np.exp(-np.linspace(0, 8, length))
            soundfile.write(folder / name / f"{number}.wav", sound, RATE_HZ)
    soundfile.write(folder / "speech.wav", tone("abba", rng), RATE_HZ)
    (folder / "speech").mkdir()
    soundfile.write(folder / "speech" / "1.wav", tone("baab", rng), RATE_HZ)


def script(text: str) -> str:
    """A block as a script: what is in brackets left out, a service in the background until the end."""
    lines = ["set -euo pipefail"]
    for line in text.replace("\\\n", " ").splitlines():
        command = line.partition(" # ")[0].rstrip()
        if command.startswith(SERVER):
            lines += [f"{command} &", "service=$!", "trap 'kill $service; wait $service || true' EXIT"]
            ready = f"curl -sf -o /dev/null {SERVER_URL}/healthz"
            lines.append(f"until {ready}; do kill -0 $service; sleep 0.5; done")
        else:
            lines.append(command.replace("curl ", "curl --fail-with-body -sS ", 1))
    return "\n".join(lines) + "\n"


def run_script(text: str, folder: Path, timeout_s: float) -> subprocess.CompletedProcess[str]:
    """Run it there with bash; the home folder is the workspace too."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY),
        "HOME": str(folder),
        "RAY_AUTH_MODE": "disabled",
        "RAY_ADDRESS": "",
        "PATH": f"{folder}/.venv/bin:{os.environ['PATH']}",
    }
    return subprocess.run(
        ["bash", "-c", text],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout_s,
    )
