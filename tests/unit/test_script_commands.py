"""What the commands say to scripts of the local model that are not there, or are wrong."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from cloutagent_server.cli import cli


def test_a_folder_that_is_not_there_and_a_script_that_is_wrong_are_told(tmp_path: Path) -> None:
    (tmp_path / "wrong.script").write_text("when: a\n[[delay: soon]]")
    for folder, fault in ((tmp_path / "none", "no folder of scripts"), (tmp_path, "wrong.script: [[delay: soon]]")):
        done = CliRunner().invoke(cli, ["local-model", "--port", "0", "--scripts", str(folder)])
        assert done.exit_code == 1
        assert f"cloutagent-server: --scripts: {folder}" in done.output
        assert fault in done.output


def test_scripts_are_for_the_local_model() -> None:
    done = CliRunner().invoke(cli, ["up", "--scripts", "somewhere"])
    assert done.exit_code == 2
    assert "--local-model" in done.output
