"""The command line says what there is, and says in one line what is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from otelbudget import __version__
from otelbudget.cli import COMMANDS, main


def test_it_says_its_version(capsys) -> None:
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["--version"])
    assert capsys.readouterr().out == f"otelbudget {__version__}\n"


def test_help_lists_every_command(capsys) -> None:
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["--help"])
    shown = capsys.readouterr().out
    assert all(name in shown for name in COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: command"),
        (["dance"], "invalid choice: 'dance'"),
        (["demo", "--tenants", "0"], "'0' is not a number of tenants from 1 to 1000"),
        (["demo", "--for", "5:00"], "'5:00' is not a time such as 30s, 5m or 1h30m"),
    ],
)
def test_a_wrong_command_line_is_refused_with_its_reason(arguments, message, capsys) -> None:
    with pytest.raises(SystemExit, match=r"^2$"):
        main(arguments)
    assert message in capsys.readouterr().err


def test_a_wrong_budgets_file_is_one_message_with_its_place(tmp_path, capsys) -> None:
    wrong = tmp_path / "budgets.yaml"
    wrong.write_text("budgets: {quick: {max_step: 5}}\n")
    assert main(["demo", "--config", str(wrong)]) == 2
    said = capsys.readouterr().err
    assert f"{wrong}:1:19" in said
    assert "did you mean 'max_steps'" in said
    assert "Traceback" not in said
    assert main(["demo", "--config", str(tmp_path / "missing.yaml")]) == 2
    assert "missing.yaml" in capsys.readouterr().err


def test_version_and_help_load_nothing_heavy() -> None:
    program = (
        "import sys\nfrom otelbudget.cli import main\ntry: main(['demo', '--help'])\nexcept SystemExit: pass\n"
        "print([m for m in ('openai', 'yaml', 'rich', 'prometheus_client', 'opentelemetry.sdk') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("arguments", [["prices", "show", "gpt-4o"], ["schema"]])
def test_it_ends_quietly_where_nobody_reads_on(arguments: list[str], tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "otelbudget", *arguments]
    with open(writer, "w") as pipe:
        done = subprocess.run(command, cwd=tmp_path, stdout=pipe, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (141, "")
