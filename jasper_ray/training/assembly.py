"""From a config to a run: manifests, sources, plan, state and loop of one worker. Knows nothing of Ray."""

import hashlib
import logging
import socket
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from jasper_ray.config.data import ALIGN_FRAMES, DatasetConfig
from jasper_ray.config.files import dump_config
from jasper_ray.config.schema import RunConfig
from jasper_ray.data.batch import BatchLoader
from jasper_ray.data.interference import read_recordings
from jasper_ray.data.manifest import Manifest, concat_manifests, read_manifest
from jasper_ray.data.plan import RunPlan
from jasper_ray.data.shard_feed import Feed, ShardFeed
from jasper_ray.data.source import UtteranceSource
from jasper_ray.data.window_feed import WindowFeed
from jasper_ray.data.windows import layout_fingerprint
from jasper_ray.errors import ConfigError, ResumeError
from jasper_ray.storage import object_store
from jasper_ray.storage.node_progress import NodeProgress
from jasper_ray.storage.shard_cache import ShardCache
from jasper_ray.storage.shard_prefetch import ShardPrefetcher
from jasper_ray.text.alphabet import Alphabet
from jasper_ray.training.checkpoint import find_checkpoints, load_checkpoint, load_newest
from jasper_ray.training.loop import Notice, RunData, TrainingLoop
from jasper_ray.training.probe import probe_memory, worst_batch, worst_microbatch
from jasper_ray.training.report import Reporter, Reporters, RunLog
from jasper_ray.training.selection import Selection, select_training_utterances
from jasper_ray.training.state import RunState
from jasper_ray.training.world import World

logger = logging.getLogger(__name__)

CONFIG_FILE = "config.yaml"


def read_datasets(datasets: Sequence[DatasetConfig], *, key: str) -> Manifest:
    """The manifests of several datasets as one.

    Raises:
        ConfigError: No dataset is named under `key`.
        DataError: A folder is not a dataset; names it.
    """
    if not datasets:
        raise ConfigError(f"{key} names no dataset: give at least one, e.g. {key}: [{{path: /data/train}}]")
    return concat_manifests([read_manifest(dataset.path) for dataset in datasets])


def select_for(config: RunConfig) -> Selection:
    """The utterances that a config trains on; the same on every worker.

    Raises:
        ConfigError: There is no training dataset.
        DataError: The data does not fit the config; names the utterance.
    """
    return select_training_utterances(
        read_datasets(config.data.train, key="data.train"),
        data=config.data,
        features=config.features,
        augment=config.augment,
        model=config.model,
        alphabet=Alphabet(config.text.alphabet),
    )


def build_data(
    config: RunConfig, selection: Selection, make_loader: Callable[[], BatchLoader], world: World
) -> RunData:
    """Sources and plan over a selection; every worker must call it."""
    alphabet = Alphabet(config.text.alphabet)
    cache = ShardCache(_cache_folder(config), int(config.data.cache_max_gb * 1e9))
    evaluation, evaluation_source = None, None
    if config.data.evaluation:
        evaluation = read_datasets(config.data.evaluation, key="data.evaluation")
        evaluation_source = UtteranceSource(evaluation, alphabet, config.features, None, config.seed, cache)
    train = selection.manifest
    prefetcher = ShardPrefetcher(cache, exact=config.data.window_shards is not None)
    train_source = UtteranceSource(
        train, alphabet, config.features, config.augment, config.seed, prefetcher, recordings=cache
    )
    plan = plan_run(config, train)
    feed = _make_feed(config, train, plan, prefetcher, train_source.forget)
    world.gather(None)  # workers of a node know of each other before the first begins
    return RunData(
        train=train,
        train_source=train_source,
        shard_feed=feed,
        plan=plan,
        evaluation=evaluation,
        evaluation_source=evaluation_source,
        make_loader=make_loader,
    )


def _make_feed(
    config: RunConfig, train: Manifest, plan: RunPlan, prefetcher: ShardPrefetcher, forget: Callable[[str], None]
) -> Feed:
    """Who tells the prefetcher what to fetch."""
    window_shards, end_epoch = config.data.window_shards, config.training.epochs
    if window_shards is None or all(object_store.is_local(shard) for shard in train.shards):
        return ShardFeed(train, plan, prefetcher, end_epoch=end_epoch)
    run = hashlib.sha256(config.output.encode()).hexdigest()[:16]
    progress = NodeProgress(_cache_folder(config) / f"window-{run}")
    return WindowFeed(
        train, plan, prefetcher, window_shards=window_shards, end_epoch=end_epoch, forget=forget, progress=progress
    )


def _cache_folder(config: RunConfig) -> Path:
    return Path(config.data.cache_dir).expanduser()


def plan_run(config: RunConfig, train: Manifest) -> RunPlan:
    """The order of a run's training utterances."""
    return RunPlan(
        train.durations_s,
        seed=config.seed,
        batching=config.batching,
        augment=config.augment,
        hop_s=config.features.hop_s,
        shard_index=train.shard_index,
        window_shards=config.data.window_shards,
    )


def plan_fingerprint(config: RunConfig, train: Manifest) -> str:
    """Of the utterances and, where shards are shuffled in a window, of how they lie in shards."""
    if config.data.window_shards is None:
        return train.fingerprint
    return layout_fingerprint(train.fingerprint, train.shard_index)


def recordings_fingerprints(config: RunConfig) -> dict[str, str]:
    """Of the noises and impulse responses that a run mixes in, by key; a draw is a number among them."""
    datasets = {"augment.noise": config.augment.noise, "augment.reverb": config.augment.reverb}
    found = {key: read_recordings(paths, key=key) for key, paths in datasets.items()}
    return {key: manifest.fingerprint for key, manifest in found.items() if manifest is not None}


def train_run(
    config: RunConfig,
    *,
    world: World,
    make_loader: Callable[[], BatchLoader],
    reporters: Sequence[Reporter],
    notice: Notice = str,
) -> dict[str, Any]:
    """Train as one worker of `world`, from the newest good checkpoint in `config.output` if there is one.

    Args:
        config: The run, the same on every worker.
        world: All workers.
        make_loader: A new loader of features, for training and for each evaluation.
        reporters: Hear this worker's events besides the run's own log.
        notice: What is known of machines that are about to be taken away.

    Returns:
        The figures of the last evaluation and where the bundle lies.

    Raises:
        ResumeError: `resume` does not allow what lies in `output`, or it belongs to another run.
    """
    selection = select_for(config)
    data = build_data(config, selection, make_loader, world)
    with closing(data.shard_feed):
        return _train(config, selection, data, world=world, reporters=reporters, notice=notice)


def _train(
    config: RunConfig,
    selection: Selection,
    data: RunData,
    *,
    world: World,
    reporters: Sequence[Reporter],
    notice: Notice,
) -> dict[str, Any]:
    state = RunState(
        config,
        world=world,
        manifest_fingerprint=plan_fingerprint(config, selection.manifest),
        recordings=recordings_fingerprints(config),
    )
    resumed_from = _resume(config, state, world)
    run_log: list[Reporter] = []
    if world.is_first:
        object_store.write_bytes(object_store.join(config.output, CONFIG_FILE), dump_config(config).encode())
        run_log.append(RunLog(config.output, resume_step=state.progress.global_step))
    reporter = Reporters([*run_log, *reporters])
    start = {
        "name": config.name,
        "output": config.output,
        "global_step": state.progress.global_step,
        "resumed_from": resumed_from,
        "workers": world.size,
        "host": socket.gethostname(),
        "num_parameters": state.num_parameters,
        "train_utterances": len(data.train),
        "train_hours": data.train.hours,
        "left_out_too_short": selection.too_short,
        "left_out_too_long": selection.too_long,
        "left_out_infeasible": list(selection.infeasible),
        "evaluation_utterances": len(data.evaluation) if data.evaluation else 0,
        "steps_per_epoch": data.plan.nominal_steps_per_epoch,
        "epochs": config.training.epochs,
        "memory_probe": _probe(config, state, data.train),
    }
    reporter.report("start", start)
    return TrainingLoop(config, state, data, world=world, reporter=reporter, notice=notice).run()


def _probe(config: RunConfig, state: RunState, train: Manifest) -> dict[str, Any] | None:
    """Try the largest micro-batch, where the config asks for it.

    Raises:
        CapacityError: It does not fit.
    """
    wanted = config.training.memory_probe
    if not (state.train_step.device.type == "cuda" if wanted is None else wanted):
        return None
    worst = worst_microbatch(config, train)
    batch = worst_batch(
        worst,
        num_mels=config.features.num_mels,
        num_classes=len(config.text.alphabet),
        align_frames=ALIGN_FRAMES,
    )
    return probe_memory(state.train_step, batch, worst, config)


def _resume(config: RunConfig, state: RunState, world: World) -> str | None:
    """Restore the newest good checkpoint, the same one on every worker; returns its folder."""
    if config.resume == "never":
        found = find_checkpoints(config.output)
        if found:
            raise ResumeError(
                f"resume=never, but {config.output} holds {len(found)} checkpoints, newest {found[-1]}: "
                "choose another output, or resume=auto to go on"
            )
        return None
    newest = load_newest(config.output, device=world.device) if world.is_first else None
    uri = world.from_first(newest.uri if newest else None)
    if uri is None:
        if config.resume == "must":
            raise ResumeError(f"resume=must, but {config.output} holds no checkpoint: check output, or use resume=auto")
        return None
    state.restore(newest or load_checkpoint(uri, device=world.device))
    return uri
