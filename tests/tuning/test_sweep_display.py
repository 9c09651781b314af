import io
from pathlib import Path

from rich.console import Console
from sweeps import keep, trial

from tuning.display import LineDisplay, TableDisplay, event_line, open_sweep_display, sweep_table


def test_a_pipe_gets_lines_and_a_terminal_a_table(tmp_path: Path) -> None:
    text = io.StringIO()
    console = Console(file=text, width=100)
    display = open_sweep_display(console)
    assert isinstance(display, LineDisplay)
    record = trial(0, {"optimizer.lr": 0.1}, [0.5])
    display.show(keep(tmp_path, record), record, "evaluation")
    display.show(keep(tmp_path, record), record, "progress")
    assert text.getvalue() == "trial 0: epoch 1, WER 50.00%, best 50.00% (optimizer.lr=0.1)\n"
    table = open_sweep_display(Console(file=io.StringIO(), force_terminal=True))
    assert isinstance(table, TableDisplay)
    table.show(keep(tmp_path, record), record, "evaluation")
    table.close()


def test_the_table_ranks_trials_and_keeps_running_ones_in_sight(tmp_path: Path) -> None:
    many = [trial(number, {"optimizer.lr": 0.1}, [0.1 + 0.01 * number]) for number in range(40)]
    table = sweep_table(keep(tmp_path, *many, trial(40, {"optimizer.lr": 0.2}, [], "running")), elapsed_s=60)
    text = io.StringIO()
    Console(file=text, width=120).print(table)
    shown = text.getvalue()
    assert "41 trials: 1 running, 40 finished; 1.0 min" in shown and "11 worse ones are in results.parquet" in shown
    assert " 40 " in shown and "10.00%" in shown


def test_ends_are_told_with_their_reason() -> None:
    assert event_line(trial(3, {}, [0.5], "diverged", "not finite"), "end") == (
        "trial 3: diverged after epoch 1, best WER 50.00%: not finite"
    )
    assert event_line(trial(3, {"optimizer.lr": 1.0}, [0.5], "running"), "given").endswith("again from epoch 1")
