"""Stop strings against the plain formulation: search the whole text, whatever pieces it came in."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dendrite_core.text.stop import StopStrings

# Few letters, so that stop strings overlap each other, themselves and the text.
words = st.text(alphabet="ab\n", min_size=1, max_size=5)
stop_lists = st.lists(words, min_size=1, max_size=5)
chunks = st.lists(st.text(alphabet="abc\n", max_size=6), max_size=12)


def whole_text_search(text: str, stops: list[str]) -> tuple[int, str] | None:
    """Where the first stop string to be complete ends, and the longest that ends there."""
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            return end, max(found, key=len)
    return None


def run(stops: StopStrings, chunks: list[str]) -> tuple[list[str], str | None]:
    shown = []
    for chunk in chunks:
        text, matched = stops.push(chunk)
        shown.append(text)
        if matched is not None:
            return shown, matched
    return [*shown, stops.flush()], None


@given(stop_lists, chunks, st.booleans())
@settings(max_examples=200)
def test_any_chunking_ends_where_a_whole_text_search_does(
    stops: list[str], chunks: list[str], include: bool
) -> None:
    shown, matched = run(StopStrings(stops, include), chunks)
    text = "".join(chunks)
    expected = whole_text_search(text, stops)
    if expected is None:
        assert ("".join(shown), matched) == (text, None)
    else:
        end, stop = expected
        assert matched == stop
        assert "".join(shown) == text[: end if include else end - len(stop)]


@given(stop_lists, chunks)
@settings(max_examples=200)
def test_no_more_is_held_back_than_may_become_a_stop_string(stops: list[str], chunks: list[str]) -> None:
    watcher, seen, shown = StopStrings(stops), "", ""
    for chunk in chunks:
        text, matched = watcher.push(chunk)
        seen, shown = seen + chunk, shown + text
        if matched is not None:
            return
        prefixes = {stop[:i] for stop in stops for i in range(len(stop))}
        longest = max(len(prefix) for prefix in prefixes if seen.endswith(prefix))
        assert shown == seen[: len(seen) - longest]


@given(stop_lists, chunks, chunks, chunks, st.booleans())
@settings(max_examples=200)
def test_a_fork_goes_its_own_way(
    stops: list[str], past: list[str], first: list[str], second: list[str], include: bool
) -> None:
    trunk = StopStrings(stops, include)
    shown, matched = [], None
    for chunk in past:
        text, matched = trunk.push(chunk)
        shown.append(text)
        if matched is not None:
            return
    branch = trunk.fork()
    for watcher, rest in ((trunk, first), (branch, second)):
        alone = run(StopStrings(stops, include), past + rest)
        text, ended = run(watcher, rest)
        assert ("".join(shown + text), ended) == ("".join(alone[0]), alone[1])


def test_an_included_stop_string_is_shown_as_it_comes() -> None:
    watcher = StopStrings(["END"], include=True)
    assert [watcher.push(text) for text in ("x E", "N", "D y")] == [("x E", None), ("N", None), ("D", "END")]


@pytest.mark.parametrize("include", [True, False])
def test_without_stop_strings_text_passes(include: bool) -> None:
    watcher = StopStrings([], include)
    assert watcher.push("anything") == ("anything", None)
    assert watcher.flush() == ""
