"""Scripts in files for prompts without directives."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloutagent_server.engine.local_model import ScriptError, ScriptLibrary
from cloutagent_server.engine.local_model.library import sections
from cloutagent_server.engine.local_model.script import Result, Say, Tool

FILE = """# The CRM.
when: order 1042
when: order 7
[[tool: look {"a": 1}]]
[[say: It is: ]] [[result]]

when: hello
[[say: Hello.]]
"""


def test_the_first_section_that_fits_answers(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "one.script").write_text(FILE)
    (tmp_path / "c.script").write_text("when: order\n[[say: Another.]]")
    (tmp_path / "d.txt").write_text("no script")
    library = ScriptLibrary.read(tmp_path)
    for prompt in ("What about order 1042, please?", "hello, order 7"):
        assert library.answer(prompt) == [Tool("look", {"a": 1}), Say("It is: "), Result()]
    assert library.answer("hello") == [Say("Hello.")]
    assert library.answer("my order") == [Say("Another.")]
    assert library.answer("good-bye") == ()


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[[say: a]]", "begins with a line `when: TEXT`"),
        ("when:\n[[say: a]]", "begins with a line `when: TEXT`"),
        ("when: a\nnothing", "when: a: has no directive behind it"),
        ("when: a\n", "when: a: has no directive behind it"),
        ("when: a\n[[delay: soon]]", "delay: soon"),
    ],
)
def test_a_file_that_is_wrong_is_named_with_its_fault(tmp_path: Path, text: str, fault: str) -> None:
    with pytest.raises(ScriptError, match=fault.replace("[", r"\[")):
        sections(text)
    (tmp_path / "wrong.script").write_text(text)
    with pytest.raises(ScriptError, match=r"wrong\.script: "):
        ScriptLibrary.read(tmp_path)


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no folder of scripts"):
        ScriptLibrary.read(tmp_path / "none")
