"""Shell blocks of the Markdown files, their marks, and whether what they name exists.

A mark is an HTML comment on the line before the block: `<!-- run: NAME -->` if tests/docs/test_runs.py executes it in
the workspace of that name, `<!-- not run: reason -->` otherwise.
"""

import argparse
import contextlib
import importlib
import importlib.util
import io
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import click

from jasper_ray.config.knobs import known_keys
from jasper_ray.config.schema import RunConfig
from serve.app import ServeArgs
from tuning.range_test import RangeConfig
from tuning.settings import SweepConfig

REPOSITORY = Path(__file__).parents[2]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
SHELL = ("sh", "bash", "shell", "console")
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
MARK = re.compile(r"<!-- (run|not run): (.+?) -->\n\Z")
OPTIONAL = re.compile(r"(?<=\s)\[([^\[\]]*)\]")
ELSEWHERE = {"curl", "docker", "sbatch", "aws", "kubectl", "tensorboard", "export", "cd", ".", "apt-get", "prometheus"}
"""Programs that are not ours, and words of the shell."""


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    page: Path
    line: int
    language: str
    text: str
    mark: str
    """`run`, `not run`, or nothing."""
    note: str
    """The workspace's name, or the reason."""

    @property
    def id(self) -> str:
        return f"{self.page.relative_to(REPOSITORY)}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    """All fenced blocks of a page."""
    text = page.read_text()
    for fence in FENCE.finditer(text):
        mark = MARK.search(text[: fence.start()])
        kind, note = mark.groups() if mark else ("", "")
        yield Block(page, text.count("\n", 0, fence.start()) + 1, fence[1], fence[2], kind, note)


def shell_blocks() -> list[Block]:
    """Those of all pages that are for a shell."""
    return [block for page in PAGES for block in blocks(page) if block.language in SHELL]


def commands(block: Block) -> list[list[str]]:
    """A block's commands as words, with what stands in brackets, and the first of alternatives (`a|b`)."""
    found = []
    for line in block.text.replace("\\\n", " ").splitlines():
        words = shlex.split(OPTIONAL.sub(r" \1 ", line), comments=True)
        words = [re.sub(r"^(\w+)(\|\w+)+$", r"\1", word) for word in words]
        words = [word for word in words if word not in ("...", "options", "KEY=VALUE", "sweep.KEY=VALUE")]
        for part in _parts(words):
            while part and re.match(r"^[A-Z_]+=", part[0]):
                part = part[1:]
            if part:
                found.append(part)
    return found


def _parts(words: list[str]) -> Iterator[list[str]]:
    part: list[str] = []
    for word in words:
        if word in ("&&", "|", "&"):
            yield part
            part = []
        else:
            part.append(word)
    yield part


def check_command(words: list[str]) -> None:
    """Raise AssertionError if a command names something that is not there."""
    program, rest = words[0], words[1:]
    if words[:2] == ["python", "-m"]:
        _check_module(words[2], words[3:])
    elif program == "python" and (REPOSITORY / rest[0]).exists():
        _parse(lambda: runpy.run_path(str(REPOSITORY / rest[0]), run_name="__main__"), rest)
    elif program == "ray":
        from ray.scripts.scripts import cli

        ours = _check_click(cli, rest)
        if ours:
            check_command(ours)
    elif program == "serve":
        from ray.serve.scripts import cli as serve_cli

        _check_click(serve_cli, rest)
        _check_serve_arguments(rest)
    elif program == "make":
        targets = re.findall(r"^([\w-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
        assert set(rest) <= set(targets), f"make has no target {rest}"
    elif program == "pip":
        extras = re.findall(r"^(\w+) = \[", (REPOSITORY / "pyproject.toml").read_text(), re.MULTILINE)
        for name in re.findall(r"jasper-ray\[([\w,]+)\]", " ".join(rest)):
            assert set(name.split(",")) <= set(extras), f"there is no extra {name}"
    elif "/" in program:
        assert (REPOSITORY / program).stat().st_mode & 0o100, f"{program} cannot be executed"
    else:
        assert program in ELSEWHERE, f"{program} is not known to tests/docs/commands.py"
    for word in rest:
        if re.fullmatch(r"(jobs|tuning|serve|clusters|monitoring)/[\w./-]+\.(yaml|yml|py|sh)", word):
            assert (REPOSITORY / word).exists(), f"{word} is not there"


def _check_serve_arguments(words: list[str]) -> None:
    for word in words:
        if re.fullmatch(r"serve\.\w+:\w+", word):
            module, _, name = word.partition(":")
            assert hasattr(importlib.import_module(module), name), word
        elif re.fullmatch(r"\w+=.+", word):
            assert word.partition("=")[0] in ServeArgs.model_fields, f"ServeArgs has no {word}"


class _ParsedError(Exception):
    """The command line was understood."""


def _check_module(module: str, arguments: list[str]) -> None:
    if importlib.util.find_spec(module) is None or not module.startswith(("jobs.", "pytest")):
        raise AssertionError(f"there is no module {module}")
    if module.startswith("jobs."):
        _parse(importlib.import_module(module).main, [module, *arguments])
        if module in ("jobs.train", "jobs.tune"):
            _check_keys(arguments)


def _parse(main: Any, words: list[str]) -> None:
    """Run a program up to the point where it has read its command line."""

    def stopping(parse: Any) -> Any:
        def parse_and_stop(parser: argparse.ArgumentParser, *given: Any, **named: Any) -> None:
            parse(parser, *given, **named)
            raise _ParsedError

        return parse_and_stop

    parser, errors = argparse.ArgumentParser, io.StringIO()
    with (
        mock.patch.object(sys, "argv", words),
        mock.patch.object(parser, "parse_args", stopping(parser.parse_args)),
        mock.patch.object(parser, "parse_intermixed_args", stopping(parser.parse_intermixed_args)),
        contextlib.redirect_stderr(errors),
        contextlib.redirect_stdout(errors),
    ):
        try:
            main()
        except _ParsedError:
            return
        except SystemExit as ended:
            if ended.code == 0:  # --help
                return
            last = errors.getvalue().strip().splitlines()[-1:]
            raise AssertionError(f"{' '.join(words)}: {last}") from None
    raise AssertionError(f"{words[0]} reads no command line")


def _check_keys(arguments: list[str]) -> None:
    """Every `KEY=VALUE` has a knob, or a section, of that name."""
    models = {"sweep.": SweepConfig, "range.": RangeConfig, "": RunConfig}
    for key in (word.partition("=")[0] for word in arguments if "=" in word and not word.startswith("-")):
        prefix = next(prefix for prefix in models if key.startswith(prefix))
        known = [re.sub(r"\.N\b", "", name) for name in known_keys(models[prefix])]
        own = re.sub(r"\.\d+\b", "", key.removeprefix(prefix))
        assert any(name == own or name.startswith(own + ".") for name in known), f"there is no knob {key}"


def _check_click(group: click.Command, words: list[str]) -> list[str]:
    """Commands and options of ray and serve; returns what stands behind `--`."""
    ours = words[words.index("--") + 1 :] if "--" in words else []
    words = words[: words.index("--")] if "--" in words else words
    command = group
    while isinstance(command, click.Group):
        assert words and words[0] in command.commands, f"{command.name} has no command {words[:1]}"
        command, words = command.commands[words[0]], words[1:]
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    for word in words:
        if word.startswith("--"):
            assert word.partition("=")[0] in known, f"{command.name} has no option {word}"
    return ours
