import re

import pytest
from commands import PAGES, REPOSITORY, SHELL, Block, blocks, check_command, commands, shell_blocks

BLOCKS = shell_blocks()
SHELL_BLOCK = pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.id)
OUR_PROGRAMS = re.compile(r"^\s*(python -m |ray |make |serve |curl |pip )", re.MULTILINE)


def test_every_fenced_block_says_its_language() -> None:
    nameless = [block.id for page in PAGES for block in blocks(page) if not block.language]
    assert not nameless, "sh for commands, otherwise text, json, yaml, python"


def test_no_commands_hide_in_a_block_of_another_language() -> None:
    for page in PAGES:
        for block in blocks(page):
            assert block.language in SHELL or not OUR_PROGRAMS.search(block.text), block.id


@SHELL_BLOCK
def test_a_block_runs_or_says_why_not(block: Block) -> None:
    assert block.mark in ("run", "not run"), "put <!-- run: WORKSPACE --> or <!-- not run: reason --> before it"
    if block.mark == "not run":
        assert len(block.note.split()) > 2, "a reason, not a word"


@SHELL_BLOCK
def test_what_a_block_names_is_there(block: Block) -> None:
    assert commands(block)
    for words in commands(block):
        check_command(words)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("python -m jobs.trian CONFIG.yaml", "no module"),
        ("python -m jobs.evaluate BUNDLE DATASET --predictoins FILE", "unrecognized arguments"),
        ("python -m jobs.export BUNDLE OUT --format onyx", "invalid choice"),
        ("python -m jobs.train CONFIG.yaml cluster.num_worker=2", "no knob"),
        ("ray job submit --workin-dir . -- python -m jobs.doctor", "no option"),
        ("ray job submit --working-dir . -- python -m jobs.doctor --gpu-count 8", "unrecognized arguments"),
        ("make everything", "no target"),
        ("serve run serve.app:build bundel=RUN/bundle", "ServeArgs has no"),
        ("frobnicate", "not known"),
    ],
)
def test_a_mistake_in_a_block_is_found(text: str, complaint: str) -> None:
    block = Block(REPOSITORY / "README.md", 1, "sh", text + "\n", "not run", "")
    with pytest.raises(AssertionError, match=complaint):
        for words in commands(block):
            check_command(words)
