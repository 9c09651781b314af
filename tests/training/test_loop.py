import math
from pathlib import Path

import pytest
import torch
from tones import run_workers, tone_config

from jasper_ray.config.schema import RunConfig
from jasper_ray.data.torch_loader import TorchLoader
from jasper_ray.errors import DataError, NonFiniteError, ResumeError
from jasper_ray.model.bundle import load_bundle
from jasper_ray.training.assembly import train_run
from jasper_ray.training.checkpoint import find_checkpoints
from jasper_ray.training.report import read_log
from jasper_ray.training.state import RunState
from jasper_ray.training.world import World


@pytest.fixture(scope="module")
def whole_run(tones: Path, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """One worker, never interrupted."""
    config = tone_config(tones, tmp_path_factory.mktemp("whole"))
    run_workers(config, 1)
    return config


def losses(config: RunConfig) -> dict[int, float]:
    return {e["global_step"]: e["loss"] for e in read_log(config.output) if e["event"] == "progress"}


def utterances(config: RunConfig) -> dict[int, list[list[str]]]:
    return {e["global_step"]: e["microbatches"] for e in read_log(config.output) if e["event"] == "utterances"}


def evaluations(config: RunConfig) -> dict[int, tuple[float, float]]:
    return {e["global_step"]: (e["loss"], e["wer"]) for e in read_log(config.output) if e["event"] == "evaluation"}


def assert_same_run(config: RunConfig, expected: RunConfig) -> None:
    assert utterances(config) == utterances(expected)
    assert losses(config) == pytest.approx(losses(expected), rel=1e-3)
    ours, theirs = evaluations(config), evaluations(expected)
    assert ours.keys() == theirs.keys()
    for step, (loss, wer) in ours.items():
        assert (loss, wer) == (pytest.approx(theirs[step][0], rel=1e-3), theirs[step][1])


def test_a_run_learns_and_leaves_log_checkpoints_and_bundle(whole_run: RunConfig) -> None:
    values = losses(whole_run)
    assert list(values) == list(range(1, 25))  # 40 utterances, 3 micro-batches of up to 4: 4 steps in each of 6 epochs
    assert values[24] < 0.6 * values[1]
    assert sorted(evaluations(whole_run)) == [8, 16, 24]
    assert [uri[-8:] for uri in find_checkpoints(whole_run.output)] == ["00000020", "00000024"]
    training = load_bundle(f"{whole_run.output}/bundle").config.training
    assert training["step"] == 24 and training["wer"] == evaluations(whole_run)[24][1]


def test_the_best_bundle_is_that_of_the_deployed_weights_and_stores_its_own_error_rate(whole_run: RunConfig) -> None:
    events = [event for event in read_log(whole_run.output) if event["event"] == "evaluation"]
    lowest = min(event["wer"] for event in events)
    best = next(event for event in events if event["wer"] == lowest)
    (folder,) = (Path(whole_run.output) / "best").iterdir()
    assert folder.name == f"step_{best['global_step']:08d}"
    bundle = load_bundle(str(folder))
    assert bundle.config.training["wer"] == lowest == best["best_wer"]
    plain = load_bundle(str(folder), plain_weights=True).model.state_dict()
    deployed = bundle.model.state_dict()
    assert not torch.equal(deployed["decoder.layers.0.weight"], plain["decoder.layers.0.weight"])


def test_checkpoints_are_told_when_they_are_whole_and_in_order(whole_run: RunConfig) -> None:
    told = [event for event in read_log(whole_run.output) if event["event"] == "checkpoint"]
    assert [event["global_step"] for event in told] == [4, 8, 12, 16, 20, 24]
    assert all(0 <= event["stalled_s"] <= event["took_s"] for event in told)


@pytest.mark.parametrize("world_size", [2, 4])
def test_the_number_of_workers_does_not_change_the_training(
    tones: Path, whole_run: RunConfig, tmp_path: Path, world_size: int
) -> None:
    config = tone_config(tones, tmp_path)  # 4 workers share 3 micro-batches: one has none
    run_workers(config, world_size)
    assert_same_run(config, whole_run)


def test_a_run_stopped_in_mid_epoch_goes_on_elsewhere_as_if_nothing_had_happened(
    tones: Path, whole_run: RunConfig, tmp_path: Path
) -> None:
    run_workers(tone_config(tones, tmp_path, "training.stop_after_steps=10"), 2)
    config = tone_config(tones, tmp_path)
    run_workers(config, 3)
    ours, theirs = evaluations(config), evaluations(whole_run)
    assert ours.pop(10)  # the end of a job is evaluated too
    assert utterances(config) == utterances(whole_run)
    assert losses(config) == pytest.approx(losses(whole_run), rel=1e-3)
    assert {step: wer for step, (_, wer) in ours.items()} == {step: wer for step, (_, wer) in theirs.items()}


def test_a_resume_at_the_end_of_an_epoch_starts_the_next_one(tones: Path, whole_run: RunConfig, tmp_path: Path) -> None:
    run_workers(tone_config(tones, tmp_path, "training.stop_after_epochs=2"), 1)
    config = tone_config(tones, tmp_path)
    run_workers(config, 1)
    assert utterances(config) == utterances(whole_run)
    assert losses(config) == pytest.approx(losses(whole_run), rel=1e-3)


def test_a_finished_run_is_not_trained_again(whole_run: RunConfig) -> None:
    before = {uri: Path(uri).stat().st_mtime_ns for uri in find_checkpoints(whole_run.output)}
    run_workers(whole_run, 1)
    assert len(losses(whole_run)) == 24
    assert {uri: Path(uri).stat().st_mtime_ns for uri in find_checkpoints(whole_run.output)} == before


def test_resume_never_and_must_mean_what_they_say(tones: Path, whole_run: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(ResumeError, match=r"resume=never, but .* holds 2 checkpoints"):
        run_workers(whole_run.model_copy(update={"resume": "never"}), 1)
    with pytest.raises(ResumeError, match=r"resume=must, but .* holds no checkpoint"):
        run_workers(tone_config(tones, tmp_path, "resume=must"), 1)


def test_another_seed_cannot_continue_a_run(tones: Path, whole_run: RunConfig) -> None:
    with pytest.raises(ResumeError, match=r"'seed': 0.*'seed': 5"):
        run_workers(whole_run.model_copy(update={"seed": 5}), 1)


def test_the_seconds_policy_trains_the_same_on_two_workers(tones: Path, tmp_path: Path) -> None:
    overrides = ["batching.policy=seconds", "batching.seconds_per_microbatch=4", "training.epochs=4"]
    configs = [tone_config(tones, tmp_path / str(size), *overrides) for size in (1, 2)]
    for size, config in enumerate(configs, start=1):
        run_workers(config, size)
    assert_same_run(configs[1], configs[0])


def test_a_loss_that_is_not_finite_is_skipped_named_and_stops_the_run_after_its_patience(
    tones: Path, tmp_path: Path
) -> None:
    overrides = ["optimizer.lr=1e30", "schedule.warmup_epochs=0", "training.max_nonfinite_steps=2"]
    config = tone_config(tones, tmp_path, *overrides)
    with pytest.raises(NonFiniteError, match=r"3 steps in a row.*train-corpus-"):
        run_workers(config, 1)
    warnings = [event for event in read_log(config.output) if event["event"] == "warning"]
    assert warnings and all(name.startswith("train-corpus-") for name in warnings[0]["utterances"])
    assert all(loss is None or math.isfinite(loss) for loss in losses(config).values())


def test_an_utterance_too_short_for_its_transcript_is_named_before_training(tones: Path, tmp_path: Path) -> None:
    overrides = ["features.hop_s=0.02", "augment.speed_max=2", "features.window_s=0.02", "features.fft_size=512"]
    blocks = "model.blocks=[{filters: 8, kernel: 3, stride: 8}]"
    with pytest.raises(DataError, match=r"too short for their transcripts, first 'train-corpus-\d+'.*infeasible=skip"):
        run_workers(tone_config(tones, tmp_path, *overrides, blocks), 1)


def test_another_alphabet_starts_from_the_encoder_of_a_bundle_with_a_new_decoder(
    whole_run: RunConfig, tones: Path, tmp_path: Path
) -> None:
    bundle = f"{whole_run.output}/bundle"
    other = whole_run.text.model_copy(update={"alphabet": whole_run.text.alphabet + "é"})
    config = tone_config(tones, tmp_path).model_copy(update={"init_from": bundle, "text": other})
    world = World(rank=0, size=1, device=torch.device("cpu"))
    state = RunState(config, world=world, manifest_fingerprint="x")
    theirs, ours = load_bundle(bundle).model.state_dict(), state.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs if name.startswith("encoder."))
    assert len(ours["decoder.layers.0.bias"]) == len(theirs["decoder.layers.0.bias"]) + 1
    assert not torch.equal(ours["decoder.layers.0.weight"][:-1], theirs["decoder.layers.0.weight"])


def test_a_run_whose_machine_is_about_to_go_saves_at_once_and_trains_on(
    tones: Path, whole_run: RunConfig, tmp_path: Path
) -> None:
    config = tone_config(tones, tmp_path, "training.stop_after_steps=8", "checkpoint.every_epochs=6")
    asked = 0

    def notice() -> str:
        nonlocal asked
        asked += 1
        return "node abc will be taken away in 120 s" if asked >= 3 else ""

    train_run(
        config,
        world=World(),
        make_loader=lambda: TorchLoader(config.features, config.loader),
        reporters=[],
        notice=notice,
    )
    events = read_log(config.output)
    (warning,) = [event for event in events if event["event"] == "warning"]
    assert warning["message"].startswith("node abc will be taken away in 120 s: a checkpoint is written now")
    # Progress is told after every step here, so it is asked then; the next save would be due 15 s later.
    assert [event["global_step"] for event in events if event["event"] == "checkpoint"] == [3, 8]
    assert warning["global_step"] == 3 and asked == 8
    assert losses(config) == pytest.approx({s: loss for s, loss in losses(whole_run).items() if s <= 8}, rel=1e-6)
