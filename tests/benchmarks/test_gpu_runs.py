"""scripts/test-gpu: a file that fails, hangs or dies takes no other with it, and parts are joined."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from scripts import gpu

FILES = {
    "test_fine.py": "def test_one(): pass\n\ndef test_two(): pass\n",
    "test_wrong.py": "def test_right(): pass\n\ndef test_wrong(): assert 1 == 2, 'two is not one'\n",
    "test_dies.py": "import os\n\ndef test_dies(): os.abort()\n",
    "test_hangs.py": "import time\n\ndef test_hangs(): time.sleep(999)\n",
}


def test_every_file_is_run_and_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(gpu, "TESTS", [str(tmp_path / name) for name in FILES])
    asked = argparse.Namespace(part="1/1", at_once=4, limit=20.0, pytest=[])
    assert gpu.test(asked) == 1
    told = capsys.readouterr().out
    assert "two is not one" in told
    row_of = {name: next(line for line in told.splitlines() if f"/{name}, " in line) for name in FILES}
    assert "passed 2, failed 0" in row_of["test_fine.py"]
    assert "passed 1, failed 1" in row_of["test_wrong.py"]
    assert "ended died (-6)" in row_of["test_dies.py"]
    assert "ended died (-9)" in row_of["test_hangs.py"]
    assert "test_fine.py" not in told.splitlines()[-1]


def test_parts_share_the_files_and_join_what_they_find() -> None:
    parts = [gpu.TESTS[share::2] for share in range(2)]
    assert sorted(path for part in parts for path in part) == sorted(gpu.TESTS)
    of_gpu = {f"tests/gpu/{path.name}" for path in (gpu.ROOT / "tests" / "gpu").glob("test_*.py")}
    assert of_gpu <= set(gpu.TESTS)
    facts = {"commit": "abc", "date": "2026-01-01"}
    one = gpu.joined(None, facts, [{"file": "a"}, {"file": "b"}], ["b::test_x"])
    both = gpu.joined(one, facts, [{"file": "c"}], ["c::test_y"])
    assert [row["file"] for row in both["rows"]] == ["a", "b", "c"]
    assert both["settings"]["failed"] == "b::test_x c::test_y"
    again = gpu.joined(both, facts, [{"file": "b"}], [])
    assert again["settings"]["failed"] == "c::test_y"
    assert gpu.joined(both, facts | {"commit": "def"}, [{"file": "a"}], [])["rows"] == [{"file": "a"}]


def test_a_list_of_questions_names_commands_that_there_are() -> None:
    from benchmarks.__main__ import QUESTIONS

    assert {name for name, _, _ in gpu.QUESTIONS} <= set(QUESTIONS)
