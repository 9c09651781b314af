from pathlib import Path

import pytest

from jasper_ray.config.files import dump_config, load_run_config
from jasper_ray.config.knobs import describe_knobs, list_knobs
from jasper_ray.config.schema import RunConfig
from jasper_ray.errors import ConfigError


def write(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def complaint(folder: Path, text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_run_config(write(folder, text), overrides, environ={})
    return str(caught.value)


def test_file_values_and_overrides_reach_the_config(tmp_path: Path) -> None:
    path = write(tmp_path, "training: {epochs: 150}\ndata: {train: [{path: /a}]}\n")
    config = load_run_config(path, ["optimizer.lr=1e-3", "data.train.0.path=s3://b/c", "training.ema_decay=0"])
    assert (config.training.epochs, config.optimizer.lr, config.training.ema_decay) == (150, 1e-3, 0)
    assert config.data.train[0].path == "s3://b/c"


def test_a_saved_config_reads_back_equal(tmp_path: Path) -> None:
    config = load_run_config(write(tmp_path, "name: x\naugment: {speed_min: 0.9}\n"), ["data.train=[{path: /d}]"])
    assert load_run_config(write(tmp_path, dump_config(config))) == config


def test_an_unknown_key_names_file_key_value_and_the_nearest_known_key(tmp_path: Path) -> None:
    text = complaint(tmp_path, "training: {epoch: 3}")
    for part in ("run.yaml", "training.epoch", "value 3", "Did you mean 'training.epochs'?"):
        assert part in text


def test_an_unknown_key_at_the_top_is_looked_for_in_all_sections(tmp_path: Path) -> None:
    assert "Did you mean 'optimizer.lr'?" in complaint(tmp_path, "lr: 3")


def test_an_unknown_key_of_an_override_names_the_override(tmp_path: Path) -> None:
    text = complaint(tmp_path, "", "optimizer.learning_rat=1")
    assert "override 'optimizer.learning_rat=1'" in text and "run.yaml" not in text


def test_a_bad_value_names_key_value_and_what_is_allowed(tmp_path: Path) -> None:
    text = complaint(tmp_path, "training: {epochs: 0, precision: fp8}")
    assert "training.epochs: got 0; input should be greater than or equal to 1" in text
    assert "training.precision: got 'fp8'; input should be 'fp32', 'tf32', 'bf16' or 'fp16'" in text


def test_a_value_that_contradicts_another_says_both(tmp_path: Path) -> None:
    assert "hop_s must be in (0, window_s=0.02], got 0.5" in complaint(tmp_path, "features: {hop_s: 0.5}")


def test_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    assert "'seed' is given twice" in complaint(tmp_path, "seed: 1\nseed: 2")


def test_environment_variables_are_taken_with_their_defaults(tmp_path: Path) -> None:
    path = write(tmp_path, "output: ${WHERE:-/tmp/x}/run\n")
    assert load_run_config(path, environ={}).output == "/tmp/x/run"
    assert load_run_config(path, environ={"WHERE": "s3://b"}).output == "s3://b/run"


def test_a_missing_environment_variable_is_named(tmp_path: Path) -> None:
    assert "needs the environment variable WHERE" in complaint(tmp_path, "output: ${WHERE}/run")


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("seed", "must be KEY=VALUE"),
        ("data.train.3.path=/x", "must be a position from 0 to 0"),
        ("seed.x=1", "which has no keys"),
        ("seed=[", "not YAML"),
    ],
)
def test_a_malformed_override_is_explained(tmp_path: Path, override: str, part: str) -> None:
    assert part in complaint(tmp_path, "seed: 1\ndata: {train: [{path: /a}]}", override)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: cannot be read"):
        load_run_config(tmp_path / "nowhere.yaml")


def test_every_knob_has_a_help_text_and_shows_its_default() -> None:
    knobs = list(list_knobs(RunConfig))
    assert [knob.key for knob in knobs if not knob.help] == []
    text = describe_knobs(RunConfig)
    assert "optimizer.lr  (number, default 0.01)" in text
    assert "loader.backend  (torch|dali, default 'torch')" in text
    assert "data.train.N.path" in text


@pytest.mark.parametrize("path", sorted(Path("jobs/configs").glob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_config_is_valid(path: Path) -> None:
    load_run_config(path)


def test_packed_rows_need_masks_statistics_without_padding_and_a_stride_that_lines_up(tmp_path: Path) -> None:
    packed = "batching: {policy: packed}"
    assert "packed needs model.masked=true" in complaint(tmp_path, packed, "model.masked=false")
    assert "packed needs model.batch_norm_padding=exclude" in complaint(tmp_path, packed)
    blocks = "model.blocks=[{filters: 8, kernel: 11, stride: 3}]"
    strided = complaint(tmp_path, packed, "model.batch_norm_padding=exclude", "model.preset=null", blocks)
    assert "multiply to a divisor of 8, got 3" in strided
    good = load_run_config(write(tmp_path, packed), ["model.batch_norm_padding=exclude"])
    assert (good.batching.gap_seconds, good.model.packing_gap_frames) == (0.56, 56)


@pytest.mark.parametrize("key", ["ctc", "normalization"])
def test_triton_is_refused_without_gpus_with_what_to_take_instead(key: str, tmp_path: Path) -> None:
    text = complaint(tmp_path, f"training: {{{key}: triton}}")
    assert f"training.{key}=triton needs cluster.use_gpu=true, got false" in text
    assert f"training.{key}=auto or torch" in text
    with_gpus = load_run_config(write(tmp_path, f"training: {{{key}: triton}}"), ["cluster.use_gpu=true"])
    assert getattr(with_gpus.training, key) == "triton"


def test_cuda_graphs_are_refused_with_what_they_cannot_be_had_with(tmp_path: Path) -> None:
    wanted = "training: {cuda_graphs: true}"
    assert "training.cuda_graphs=true needs cluster.use_gpu=true, got false" in complaint(tmp_path, wanted)
    with_gpus = ("cluster.use_gpu=true",)
    assert "take training.ctc=auto or triton" in complaint(tmp_path, wanted, *with_gpus, "training.ctc=torch")
    powersgd = "training.gradients.compression=powersgd"
    assert "take none, bf16 or fp16" in complaint(tmp_path, wanted, *with_gpus, powersgd)
    assert load_run_config(write(tmp_path, wanted), [*with_gpus]).training.cuda_graphs is True
