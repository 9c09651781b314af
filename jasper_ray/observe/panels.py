"""What the dashboards show: each panel a question, with the queries that answer it."""

from jasper_ray.observe.metric_catalogue import BY_NAME
from jasper_ray.observe.panel import (
    DATASET,
    MODEL,
    RUN,
    SWEEP,
    Dashboard,
    Panel,
    Query,
    Variable,
    counter,
    exported,
    gauge,
    mean_since_start,
    newest,
    quantiles,
    rare,
    rate,
    ratio,
    share_of_requests,
)

TRAINING = Dashboard(
    "jasper-training",
    "Jasper: training",
    "Is the run learning, how fast, and what does it wait for?",
    (
        gauge("Word error rate", "percentunit", "jasper_train_wer_ratio", RUN, kind="stat"),
        gauge("Best word error rate", "percentunit", "jasper_train_best_wer_ratio", RUN, kind="stat"),
        Panel(
            "Done",
            "percentunit",
            (Query(f"{newest('jasper_train_step', RUN)} / {newest('jasper_train_steps', RUN)}", "{{run}}"),),
            "Share of the run's optimizer steps",
            "stat",
        ),
        gauge("Workers", "short", "jasper_train_workers", RUN, kind="stat"),
        Panel(
            "Loss",
            "short",
            (
                Query(newest("jasper_train_loss", RUN), "training {{run}}"),
                Query(newest("jasper_train_evaluation_loss", RUN), "evaluation {{run}}"),
            ),
            "Mean CTC loss per utterance",
        ),
        gauge("Word error rate over time", "percentunit", "jasper_train_wer_ratio", RUN),
        gauge("Learning rate", "short", "jasper_train_learning_rate", RUN),
        gauge("Gradient norm", "short", "jasper_train_gradient_norm", RUN),
        gauge("Audio per second", "s", "jasper_train_audio_seconds_per_second", RUN),
        gauge("Utterances per second", "short", "jasper_train_utterances_per_second", RUN),
        gauge("Model arithmetic", "flops", "jasper_train_flops_per_second", RUN),
        Panel(
            "Use of the GPUs' arithmetic",
            "percentunit",
            (Query(newest("jasper_train_flops_utilization_ratio", RUN), "{{run}}"),),
            BY_NAME["jasper_train_flops_utilization_ratio"].help,
            needs_gpu=True,
        ),
        gauge("Padding", "percentunit", "jasper_train_padding_ratio", RUN),
        gauge("Waiting for the loader", "percentunit", "jasper_train_loader_wait_ratio", RUN, "run, rank"),
        Panel(
            "Step time by worker",
            "s",
            (
                Query(newest("jasper_train_step_seconds", RUN, "run, rank"), "step {{run}} {{rank}}"),
                Query(newest("jasper_train_worker_seconds", RUN, "run, rank"), "own part {{run}} {{rank}}"),
            ),
            "A worker whose own part is longer than the others' holds all of them up",
        ),
        Panel(
            "Steps left out and beginnings again",
            "short",
            (
                Query(rare("jasper_train_skipped_steps_total", RUN, "run", "jasper_train_running"), "left out {{run}}"),
                Query(rare("jasper_train_restarts_total", RUN, "run", "jasper_train_running"), "again {{run}}"),
            ),
            "Per second: loss or gradient was not finite; workers were lost or their number changed",
        ),
        counter("Checkpoints", "short", "jasper_train_checkpoints_total", RUN, "run"),
        gauge("Epoch", "short", "jasper_train_epoch", RUN, kind="stat"),
        gauge("Evaluation", "s", "jasper_train_evaluation_seconds", RUN),
        gauge("Checkpoint", "s", "jasper_train_checkpoint_seconds", RUN),
        Panel(
            "Since the last checkpoint",
            "s",
            (Query(f"time() - {newest('jasper_train_last_checkpoint_timestamp_seconds', RUN)}", "{{run}}"),),
            "What a failure now would cost",
        ),
        Panel(
            "Beginnings",
            "short",
            (Query(f"sum by (run) ({exported('jasper_train_starts_total')}{{{RUN}}})", "{{run}}"),),
            BY_NAME["jasper_train_starts_total"].help,
        ),
    ),
    (Variable("run", "jasper_train_running"),),
)

DATA = Dashboard(
    "jasper-data",
    "Jasper: data",
    "Do shards come fast enough, from where, and what is being prepared?",
    (
        counter("Bytes fetched", "Bps", "jasper_shard_download_bytes_total", RUN, "run"),
        counter("Shards fetched", "short", "jasper_shard_downloads_total", RUN, "run"),
        counter("Shards found on the disk", "short", "jasper_shard_cache_hits_total", RUN, "run"),
        mean_since_start(
            "Time of a shard",
            "jasper_shard_download_seconds_total",
            "jasper_shard_downloads_total",
            RUN,
            "run",
            "Mean seconds that fetching a shard took since the workers began",
            "s",
        ),
        counter("Requests to stores", "reqps", "jasper_store_requests_total", RUN, "run"),
        ratio(
            "Time of a request",
            "jasper_store_request_seconds_total",
            "jasper_store_requests_total",
            RUN,
            "run",
            "Mean seconds of a request to a store, repetitions included",
            "s",
        ),
        Panel(
            "Repeated and failed requests to stores",
            "reqps",
            (
                Query(rare("jasper_store_retries_total", RUN, "run", "jasper_train_running"), "repeated {{run}}"),
                Query(rare("jasper_store_failures_total", RUN, "run", "jasper_train_running"), "failed {{run}}"),
            ),
            "Repeated ones are bearable, failed ones end the run",
        ),
        gauge("Waiting for the loader", "percentunit", "jasper_train_loader_wait_ratio", RUN, "run, rank"),
        counter("Utterances prepared", "short", "jasper_prepare_utterances_total", DATASET, "dataset"),
        Panel(
            "Utterances left out",
            "short",
            (
                Query(
                    rare("jasper_prepare_rejected_total", DATASET, "dataset", "jasper_prepare_running"), "{{dataset}}"
                ),
            ),
            "Per second; the dataset's report names them",
        ),
        counter("Audio prepared", "s", "jasper_prepare_audio_seconds_total", DATASET, "dataset"),
        counter("Shards prepared", "short", "jasper_prepare_shards_total", DATASET, "dataset"),
    ),
    (Variable("run", "jasper_train_running"), Variable("dataset", "jasper_prepare_running")),
)

TUNING = Dashboard(
    "jasper-tuning",
    "Jasper: tuning",
    "What does the sweep try, and what has it found?",
    (
        gauge("Best word error rate", "percentunit", "jasper_tune_best_wer_ratio", SWEEP, "sweep", kind="stat"),
        gauge("Trials", "short", "jasper_tune_trials", SWEEP, "sweep, status"),
        gauge("Word error rate by trial", "percentunit", "jasper_tune_trial_wer_ratio", SWEEP, "sweep, trial"),
        Panel(
            "Since the last event",
            "s",
            (Query(f"time() - {newest('jasper_tune_last_event_timestamp_seconds', SWEEP, 'sweep')}", "{{sweep}}"),),
            "A sweep that says nothing for long is stuck",
        ),
    ),
    (Variable("sweep", "jasper_tune_running"),),
)

SERVING = Dashboard(
    "jasper-serving",
    "Jasper: serving",
    "Are requests answered, how fast, and how much more would fit?",
    (
        Panel(
            "Requests",
            "reqps",
            (Query(rate("jasper_serve_requests_total", MODEL, "api, status"), "{{api}} {{status}}"),),
            BY_NAME["jasper_serve_requests_total"].help,
        ),
        Panel(
            "Errors",
            "percentunit",
            (
                Query(share_of_requests('status=~"5.."'), "5xx"),
                Query(share_of_requests('status="429"'), "429"),
            ),
            "Share of the requests that failed, and that were sent away because too much was waiting",
        ),
        quantiles("Time of a request", "jasper_serve_request_seconds", MODEL, "api"),
        gauge("Utterances waiting", "short", "jasper_serve_waiting_utterances", MODEL, "model"),
        gauge("Audio waiting", "s", "jasper_serve_waiting_audio_seconds", MODEL, "model"),
        ratio(
            "Time in the queue",
            "jasper_serve_queue_seconds_total",
            "jasper_serve_utterances_total",
            MODEL,
            "model",
            "Mean seconds that an utterance waits for its batch",
            "s",
        ),
        ratio(
            "Time of a batch",
            "jasper_serve_model_seconds_total",
            "jasper_serve_batches_total",
            MODEL,
            "model",
            "Mean seconds that the model computes",
            "s",
        ),
        ratio(
            "Utterances in a batch",
            "jasper_serve_utterances_total",
            "jasper_serve_batches_total",
            MODEL,
            "model",
            "Mean",
            "short",
        ),
        ratio(
            "Audio in a batch",
            "jasper_serve_audio_seconds_total",
            "jasper_serve_batches_total",
            MODEL,
            "model",
            "Mean seconds of audio computed together",
            "s",
        ),
        ratio(
            "Real-time factor",
            "jasper_serve_model_seconds_total",
            "jasper_serve_audio_seconds_total",
            MODEL,
            "model",
            "Seconds of computing per second of audio",
            "short",
        ),
        Panel(
            "Padding",
            "percentunit",
            (
                Query(
                    f"1 - {rate('jasper_serve_audio_seconds_total', MODEL, 'model')}"
                    f" / {rate('jasper_serve_padded_audio_seconds_total', MODEL, 'model')}",
                    "{{model}}",
                ),
            ),
            "Share of the computed seconds that was padding",
        ),
        Panel(
            "Failed and refused utterances",
            "short",
            (
                Query(rare("jasper_serve_failed_total", MODEL, "model", "jasper_serve_healthy"), "failed {{model}}"),
                Query(rare("jasper_serve_rejected_total", MODEL, "model", "jasper_serve_healthy"), "refused {{model}}"),
            ),
            "Per second",
        ),
        gauge("Age of the batch that is computed", "s", "jasper_serve_step_age_seconds", MODEL, "model"),
        counter("Audio transcribed", "s", "jasper_serve_audio_seconds_total", MODEL, "model"),
        Panel(
            "Use of the model",
            "percentunit",
            (
                Query(
                    f"{rate('jasper_serve_model_seconds_total', MODEL, 'model')}"
                    f" / count by (model) ({exported('jasper_serve_healthy')}{{{MODEL}}})",
                    "{{model}}",
                ),
            ),
            "Share of the time that replicas compute: at 1 they are full",
        ),
        Panel(
            "Healthy replicas",
            "short",
            (Query(f"sum by (model) ({exported('jasper_serve_healthy')}{{{MODEL}}})", "{{model}}"),),
            BY_NAME["jasper_serve_healthy"].help,
            "stat",
        ),
    ),
    (Variable("model", "jasper_serve_healthy"),),
)

CLUSTER = Dashboard(
    "jasper-cluster",
    "Jasper: cluster",
    "Are the nodes there, and what limits them?",
    (
        Panel("Nodes", "short", (Query("count(ray_node_cpu_count)", "nodes"),), "Nodes that report", "stat"),
        Panel(
            "Processors in use",
            "percent",
            (Query("ray_node_cpu_utilization", "{{instance}}"),),
            "By node",
        ),
        Panel(
            "Memory in use",
            "percentunit",
            (Query("ray_node_mem_used / ray_node_mem_total", "{{instance}}"),),
            "By node",
        ),
        Panel(
            "Disk in use",
            "percentunit",
            (Query("ray_node_disk_usage / (ray_node_disk_usage + ray_node_disk_free)", "{{instance}}"),),
            "By node: shards are kept there",
        ),
        Panel(
            "Network",
            "Bps",
            (
                Query("ray_node_network_receive_speed", "in {{instance}}"),
                Query("ray_node_network_send_speed", "out {{instance}}"),
            ),
            "By node",
        ),
        Panel(
            "GPUs in use",
            "percent",
            (Query("ray_node_gpus_utilization", "{{instance}} {{GpuIndex}}"),),
            "By device",
            needs_gpu=True,
        ),
        Panel(
            "GPU memory",
            "decmbytes",
            (Query("ray_node_gram_used", "{{instance}} {{GpuIndex}}"),),
            "By device",
            needs_gpu=True,
        ),
        Panel(
            "Object store of Ray",
            "bytes",
            (Query("sum by (instance) (ray_object_store_memory)", "{{instance}}"),),
            "Shards do not go through it",
        ),
        Panel(
            "Actors",
            "short",
            (Query("sum by (State) (ray_gcs_actors_count)", "{{State}}"),),
            "By state",
        ),
    ),
)

DASHBOARDS = (TRAINING, DATA, TUNING, SERVING, CLUSTER)
