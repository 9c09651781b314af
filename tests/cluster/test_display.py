import io

from rich.console import Console

from jasper_ray.cluster.display import BarDisplay, LineDisplay, open_display

START = {
    "name": "x", "output": "runs/x", "global_step": 0, "resumed_from": None, "workers": 2, "host": "node-1",
    "num_parameters": 1234567, "train_utterances": 10, "train_hours": 0.5, "left_out_too_short": 1,
    "left_out_too_long": 0, "left_out_infeasible": ["u7"], "evaluation_utterances": 3, "steps_per_epoch": 4,
    "epochs": 2,
}  # fmt: skip
PROGRESS = {
    "epoch": 1, "epochs": 2, "step": 3, "steps_in_epoch": 4, "global_step": 3, "total_steps": 8, "loss": 12.3456,
    "lr": 0.01, "grad_norm": 1.0, "utterances_per_s": 20.5, "audio_s_per_s": 30.0, "padding_share": 0.041,
    "loader_wait_share": 0.02, "skipped_steps": 0,
}  # fmt: skip
EVALUATION = {"global_step": 4, "wer": 0.125, "cer": 0.05, "loss": 3.0, "num_utterances": 3, "took_s": 1.5}


def shown(kind: str, values: dict) -> str:
    stream = io.StringIO()
    LineDisplay(Console(file=stream, width=40)).report(kind, values)
    return stream.getvalue()


def test_a_log_gets_one_plain_line_per_progress_event() -> None:
    assert shown("progress", PROGRESS) == (
        "epoch 1/2 step 3/4 (3 of 8) | loss 12.346 | lr 0.01000 | 20.5 utterances/s | padding 4.1% | "
        "waiting for data 2.0%\n"
    )


def test_the_start_line_names_size_workers_and_what_was_left_out() -> None:
    text = shown("start", START)
    assert "1,234,567 parameters, 2 workers, 10 training utterances (0.50 h)" in text
    assert "output runs/x, written from node-1\n" in text
    assert "left out: 1 too short, 0 too long, 1 too short for their transcripts (u7)" in text


def test_an_evaluation_shows_the_error_rate_and_a_sample_its_texts() -> None:
    assert "evaluation at step 4: WER 12.50%, CER 5.00%, loss 3.000, 3 utterances" in shown("evaluation", EVALUATION)
    assert shown("sample", {"reference": "one [two]", "hypothesis": "on"}) == (
        "  reference:  one [two]\n  hypothesis: on\n"
    )


def test_a_terminal_gets_a_bar_with_the_figures_and_a_pipe_gets_lines() -> None:
    stream = io.StringIO()
    display = open_display(Console(file=stream, force_terminal=True, width=150))
    assert isinstance(display, BarDisplay)
    display.report("progress", PROGRESS)
    display.report("evaluation", EVALUATION)
    display.close()
    assert "3/8 steps" in stream.getvalue() and "loss 12.346" in stream.getvalue()
    assert "WER 12.50%" in stream.getvalue()
    assert isinstance(open_display(Console(file=io.StringIO())), LineDisplay)
