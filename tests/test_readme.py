# SPDX-License-Identifier: Apache-2.0
"""The README's example is a file that runs, and its output is what it prints."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def blocks(language: str) -> list[str]:
    """The README's code blocks in a language."""
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def test_the_first_example_is_the_file_and_prints_what_the_readme_says() -> None:
    """The first block is examples/counter.py from its imports on, and the next its output."""
    code = (ROOT / "examples" / "counter.py").read_text()
    assert blocks("python")[0] == code[code.index("import os\n") :]
    run = subprocess.run(
        [sys.executable, "examples/counter.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert run.stdout == blocks("text")[0]


def test_the_other_examples_compile() -> None:
    """Each Python block is valid Python."""
    assert len(blocks("python")) > 2
    for block in blocks("python"):
        compile(block, "README.md", "exec")


def test_the_two_commands_are_targets_of_the_makefile() -> None:
    """`make demo` and `make test` exist."""
    makefile = (ROOT / "Makefile").read_text()
    for command in re.findall(r"^make ([a-z-]+)", blocks("sh")[0], re.MULTILINE):
        assert re.search(rf"^{command}:", makefile, re.MULTILINE)
