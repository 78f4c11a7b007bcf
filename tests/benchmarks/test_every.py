"""`dendrite-bench all` asks questions that exist, with options that they take."""

from __future__ import annotations

import argparse
from importlib import import_module

import pytest

from benchmarks.__main__ import QUESTIONS
from benchmarks.every import FULL, QUICK


@pytest.mark.parametrize("name", QUICK)
def test_its_options_are_the_questions_own(name: str) -> None:
    parser = argparse.ArgumentParser()
    import_module(QUESTIONS[name][0]).add_arguments(parser)
    for options in (QUICK[name], FULL[name]):
        parser.parse_args(options)


def test_one_question_in_a_process_of_its_own(capfd: pytest.CaptureFixture[str]) -> None:
    from benchmarks.__main__ import main

    main(["all", "--quick", "--only", "tokenizer"])
    assert '{"benchmark": "tokenizer"' in capfd.readouterr().out
