"""The benchmark book as a page, as a picture, and as the table of the README."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jasper_ray.errors import ConfigError

BEGIN = "<!-- `make bench` writes this table from docs/benchmarks -->"
END = "<!-- end of the table -->"


def table(book: Mapping[str, Any]) -> str:
    """The figures as Markdown."""
    return "\n".join(_table(book)) + "\n"


def _table(book: Mapping[str, Any]) -> Iterator[str]:
    yield "| part | what | beside | times as fast | passes | by itself |"
    yield "|---|---|---|---|---|---|"
    for row in book["figures"]:
        spread = f"{min(row['passes']):.3g} to {max(row['passes']):.3g}"
        cells = (row["part"], row["what"], row["over"], f"{row['ratio']:.3g}", spread, _rate(row))
        yield f"| {' | '.join(cells)} |"


def _rate(row: Mapping[str, Any]) -> str:
    value = row["rate"]
    return f"{value:,.0f} {row['unit']}" if value >= 100 else f"{value:.3g} {row['unit']}"


def readme_with(text: str, book: Mapping[str, Any]) -> str:
    """A README's text with the latest table between its two marks.

    Raises:
        ConfigError: The marks are not there.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ConfigError(f"there is no place for the table: the file needs the lines {BEGIN!r} and {END!r}")
    return f"{before}{BEGIN}\n{readme_section(book)}{END}{after}"


def readme_section(book: Mapping[str, Any]) -> str:
    """What stands between the marks."""
    machine = book["hardware"]
    where = f"{machine['cpus']} x {machine['cpu']} ({machine['cpu_capability']}), GPU: {machine['gpu']}"
    link = f"[{book['name']}](docs/benchmarks/{book['name']}.md)"
    return f"\nMeasured {book['date'][:10]} by `make bench` on {where}; {link}.\n\n{table(book)}\n"


def write_page(book: Mapping[str, Any], path: Path) -> None:
    """The page of a book."""
    path.write_text("\n".join(_page(book)) + "\n")


def _page(book: Mapping[str, Any]) -> Iterator[str]:
    machine = book["hardware"]
    yield f"# Benchmarks, {book['date'][:10]}"
    yield ""
    yield (
        f"`{book['command']}`, commit {book['commit'] or 'unknown'}, {book['date']}: {book['passes']} passes in"
        f" {book['minutes']:g} minutes, each in processes of its own. In a pass contenders run in turn, and a ratio is"
        " the median of the rounds' own ratios; here stands the geometric mean of the passes, with the smallest and the"
        " largest. Rates by themselves depend on the machine's clock and on its other work: they are not compared."
    )
    yield ""
    yield (
        f"{machine['cpus']} x {machine['cpu']} ({machine['cpu_capability']}), GPU: {machine['gpu']}; load average at"
        f" the end {machine['load_average_at_the_end']:.1f}; one thread where nothing else is said; the"
        f" loader reads {machine['speech']}."
    )
    yield ", ".join(f"{name} {number}" for name, number in book["versions"].items()) + "."
    yield ""
    yield table(book)
    yield f"![ratios of this run and the last]({book['name']}.png)"
    yield ""
    yield from _changes(book)


def _changes(book: Mapping[str, Any]) -> Iterator[str]:
    yield "## Since the last time"
    yield ""
    last = book["compared_with"]
    if last is None:
        yield "There is no earlier book from hardware like this."
        return
    moved = [row for row in book["changes"] if not row["is_noise"]]
    yield (
        f"Compared with [{last['name']}]({last['name']}.md) (commit {last['commit'] or 'unknown'}). A change is beyond"
        " noise if Student's t over the passes of both runs allows it less than once in a hundred comparisons of equal"
        " runs, all figures together; the limit below follows from their spread."
    )
    yield ""
    yield f"Beyond noise: {', '.join(row['name'] for row in moved) if moved else 'nothing'}."
    yield from ("", "| figure | before | now | change | noise is up to |", "|---|---|---|---|---|")
    for row in book["changes"]:
        mark = "" if row["is_noise"] else "**"
        change = f"{mark}{100 * row['relative']:+.1f} %{mark}"
        cells = (row["name"], f"{row['before']:.3g}", f"{row['after']:.3g}", change, f"{100 * row['limit']:.1f} %")
        yield f"| {' | '.join(cells)} |"


def write_picture(book: Mapping[str, Any], path: Path) -> None:
    """Every pass of every figure as a dot, with the mean before as a tick; a PNG."""
    from matplotlib.figure import Figure  # here: takes a second to import

    rows = list(reversed(book["figures"]))
    before = {row["name"]: row["before"] for row in book["changes"]}
    figure = Figure(figsize=(9, 0.9 + 0.34 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(rows):
        axes.plot(row["passes"], [place] * len(row["passes"]), "o", color="#76b900", markersize=5, alpha=0.6)
        if row["name"] in before:
            axes.plot([before[row["name"]]], [place], "|", color="#333333", markersize=13)
    axes.axvline(1.0, color="#bbbbbb", linewidth=1)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_yticks(range(len(rows)), [f"{row['part']}: {row['what']}" for row in rows], fontsize=8)
    axes.set_xlabel("times as fast as what it is beside; dots: passes, bar: the last book")
    axes.set_title(f"make bench, {book['date'][:10]}", fontsize=10)
    figure.savefig(path, dpi=110)
