"""What a corpus by name needs, fetched before the work on it, with a bar to watch."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TaskID, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.progress import Progress as Bar

from jasper_ray.config.data import CorpusConfig
from jasper_ray.data.download import LoggedProgress, Progress
from jasper_ray.data.librispeech_archives import is_by_name, subsets_of
from jasper_ray.data.readers.registry import fetch_by_name


def fetch_corpus(corpus: CorpusConfig, console: Console) -> None:
    """Download what the corpus names and is not there yet; nothing for one that is a path."""
    if not is_by_name(corpus.source):
        return
    with progress_bar(console) as progress:
        for subset in subsets_of(corpus.source):
            fetch_by_name(corpus, subset, progress)


@contextmanager
def progress_bar(console: Console) -> Iterator[Progress]:
    """A bar on a terminal, lines in a job's log."""
    if not console.is_terminal:
        yield LoggedProgress()
        return
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    with Bar(*columns, TimeRemainingColumn(), console=console) as bar:
        tasks: dict[str, TaskID] = {}

        def show(name: str, done: int, total: int) -> None:
            if name not in tasks:
                # Not the bytes of an earlier run: they would count as this one's speed.
                tasks[name] = bar.add_task(name, total=total, completed=done)
            bar.update(tasks[name], completed=done)

        yield show
