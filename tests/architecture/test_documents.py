"""What the documents say of the tool is what the tool is."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from heartvit_edge import __version__

REPOSITORY = Path(__file__).resolve().parents[2]
DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    "docs/architecture.md",
    "docs/bench.md",
    "docs/finetune.md",
    "docs/forms.md",
    "docs/gates.md",
    "docs/install.md",
    "docs/method.md",
    "docs/precision.md",
    "docs/scores.md",
    "docs/targets.md",
    "docs/trtexec.md",
    "docker/README.md",
    "engines/README.md",
)


def code_blocks(document: str) -> str:
    """Return the text of a document's fenced blocks, with lines that end in a backslash joined."""
    text = (REPOSITORY / document).read_text()
    blocks = re.findall(r"^```[a-z]*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    return "\n".join(blocks).replace("\\\n", " ")


def typed_commands(document: str) -> list[list[str]]:
    """Return the words of each line of a document's code blocks that runs heartvit-edge."""
    lines = [line.strip().removeprefix("$ ") for line in code_blocks(document).splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("heartvit-edge ")]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_and_option_in_a_document_exists(document, commands):
    for words in typed_commands(document):
        name = words[0]
        if name.startswith("-"):
            assert name in ("--help", "--version")
            continue
        assert name in commands, f"{document}: heartvit-edge {name} does not exist"
        command = commands[name]
        if hasattr(command, "commands"):  # a group
            assert words[1] in command.commands, f"{document}: heartvit-edge {name} {words[1]} does not exist"
            command = command.commands[words[1]]
        options = {"--help"} | {text for one in command.params for text in (*one.opts, *one.secondary_opts)}
        used = {word.partition("=")[0] for word in words[1:] if word.startswith("--")}
        assert used <= options, f"{document}: heartvit-edge {name} has no {used - options}"


def test_the_readme_shows_every_step_of_the_chain():
    shown = {words[0] for words in typed_commands("README.md")}
    assert {"export", "build-engine", "bench", "evaluate", "report", "doctor"} <= shown


def test_every_make_target_in_a_document_exists():
    targets = set(re.findall(r"^([a-z]+):", (REPOSITORY / "Makefile").read_text(), flags=re.MULTILINE))
    assert {"demo", "test", "check", "lint", "clean"} <= targets
    for document in DOCUMENTS:
        assert set(re.findall(r"`make ([a-z]+)`", (REPOSITORY / document).read_text())) <= targets
        used = re.findall(r"^\$? ?make (?:[A-Z]+=\S+ )*([a-z]+)", code_blocks(document), flags=re.MULTILINE)
        assert set(used) <= targets


def test_every_file_that_a_document_links_to_exists():
    for document in DOCUMENTS:
        folder = (REPOSITORY / document).parent
        links = re.findall(r"\]\(([^)#]+)\)", (REPOSITORY / document).read_text())
        missing = [link for link in links if "://" not in link and not (folder / link).exists()]
        assert missing == [], document


def test_the_changelog_s_top_entry_is_the_version():
    entries = re.findall(r"^## (\S+)", (REPOSITORY / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert entries[0] == __version__


def test_no_module_is_longer_than_300_lines():
    files = sorted((REPOSITORY / "heartvit_edge").rglob("*.py"))
    lengths = {str(file.relative_to(REPOSITORY)): len(file.read_text().splitlines()) for file in files}
    assert len(files) > 10
    assert {name: length for name, length in lengths.items() if length > 300} == {}
