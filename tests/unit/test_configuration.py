"""What is generated from the settings class is fresh, whole, and true."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from dotenv import dotenv_values
from pydantic import Field

from cloutagent_server.settings import Settings
from scripts.generate_configuration import EXAMPLE, REFERENCE, SECTIONS, example, reference, variables


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    names = {name for each in variables(Settings) for name in (each.name, *each.other_names)}
    for name in names & os.environ.keys():
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


class Extended(Settings):
    new_port: int = Field(4711, ge=0, le=65535, description="Port of something new.")
    new_origins: list[str] = Field(["https://a.example", "https://b.example"], description="Origins of something new.")
    new_file: Path | None = Field(None, description="File of something new.")
    new_share: float = Field(0.5, ge=0, description="Share of something new.")


def test_both_files_are_fresh() -> None:
    assert REFERENCE.read_text() == reference(Settings), "run `make generate`"
    assert EXAMPLE.read_text() == example(Settings), "run `make generate`"


def test_the_example_has_every_setting_and_nothing_else() -> None:
    assert list(dotenv_values(EXAMPLE)) == [each.name for each in variables(Settings)]
    assert [each.field for each in variables(Settings)] == list(Settings.model_fields)


def test_the_example_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("ANTHROPIC_API_KEY=sk-ant-" + "v" * 30 + "\n")
    assert Settings(_env_file=(EXAMPLE, tmp_path / "key")) == Settings(_env_file=tmp_path / "key")


def test_every_setting_of_the_example_is_explained_above_it() -> None:
    lines = EXAMPLE.read_text().splitlines()
    for each in variables(Settings):
        above = lines[lines.index(f"{each.name}={each.default}") - 1]
        assert above.startswith("# ") and not above.startswith("# ---"), each.name
        assert each.meaning.endswith("."), each.name


def test_a_new_setting_needs_no_change_of_the_generator() -> None:
    text = reference(Extended)
    assert "- **`NEW_PORT`** (whole number from 0 to 65535; default `4711`): Port of something new." in text
    assert "**`NEW_FILE`** (path; no default)" in text
    assert "**`NEW_SHARE`** (number from 0 on; default `0.5`)" in text
    assert "NEW_ORIGINS=https://a.example,https://b.example" in example(Extended).splitlines()


def test_the_reference_tells_bounds_choices_aliases_and_what_is_secret() -> None:
    text = " ".join(reference(Settings).split())
    assert "**`APP_ENV`** (development, production or test; default `development`; `NODE_ENV` is read too)" in text
    assert "**`AGENT_MEMORY_LIMIT`** (size from 256MiB on; default `2GiB`)" in text
    assert "**`ENCRYPTION_KEY`** (text, secret; no default)" in text
    assert "**`BACKUP_ENABLED`** (true or false; default `true`)" in text


def test_every_section_begins_with_a_setting_that_there_is() -> None:
    assert SECTIONS.keys() <= Settings.model_fields.keys()
    assert next(iter(Settings.model_fields)) in SECTIONS
