"""`StopStrings`: finds where a streamed text must end, holding back no more than it has to.

One automaton (Aho-Corasick) for all stop strings of a request: its state is how much of a stop string the
text ends with, which is just what must be held back. Branches share the automaton, so a fork is three fields.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence


class _Automaton:
    """States are prefixes of stop strings; state 0 is the empty one.

    `step[s]` maps a character to the next state, absent meaning state 0. `length[s]` is the length of
    the prefix. `found[s]` is the longest stop string that a text in state s ends with.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self.step: list[dict[str, int]] = [{}]
        self.length = [0]
        self.found: list[str | None] = [None]
        for stop in stops:
            self._add(stop)
        self._link()

    def _add(self, stop: str) -> None:
        state = 0
        for character in stop:
            if character not in self.step[state]:
                self.step.append({})
                self.length.append(self.length[state] + 1)
                self.found.append(None)
                self.step[state][character] = len(self.step) - 1
            state = self.step[state][character]
        self.found[state] = stop

    def _link(self) -> None:
        """Complete `step` and `found` with what the longest proper suffix of each state offers."""
        suffix = dict.fromkeys(self.step[0].values(), 0)
        queue = deque(suffix)
        while queue:
            state = queue.popleft()
            shorter = suffix[state]
            if self.found[state] is None:
                self.found[state] = self.found[shorter]
            for character, child in self.step[state].items():
                suffix[child] = self.step[shorter].get(character, 0)
                queue.append(child)
            self.step[state] = {**self.step[shorter], **self.step[state]}


class StopStrings:
    """Watches one branch's text for stop strings.

    The first one to be complete wins, the longest of those that end at the same character, however the
    text was cut into pieces. With `include`, the stop string is part of the text.
    """

    __slots__ = ("_automaton", "_held", "_include", "_starts", "_state")

    def __init__(self, stops: Sequence[str], include: bool = False) -> None:
        self._automaton = _Automaton(stops)
        self._starts = frozenset(self._automaton.step[0])
        self._include = include
        self._state = 0
        self._held = ""

    def push(self, text: str) -> tuple[str, str | None]:
        """The text that is now safe to show, and the stop string that ended it or None."""
        if self._state == 0 and self._starts.isdisjoint(text):
            return text, None
        step, found = self._automaton.step, self._automaton.found
        state = self._state
        for at, character in enumerate(text):
            state = step[state].get(character, 0)
            stop = found[state]
            if stop is not None:
                return self._end(text[: at + 1], stop), stop
        self._state = state
        return self._release(text), None

    def flush(self) -> str:
        """What was held back, once nothing more can follow."""
        held, self._held, self._state = self._held, "", 0
        return held

    def fork(self) -> StopStrings:
        """An independent watcher at the same place."""
        other = object.__new__(StopStrings)
        other._automaton, other._starts, other._include = self._automaton, self._starts, self._include
        other._state, other._held = self._state, self._held
        return other

    def _end(self, text: str, stop: str) -> str:
        ended = self._held + text
        self._held, self._state = "", 0
        return ended if self._include else ended[: len(ended) - len(stop)]

    def _release(self, text: str) -> str:
        if self._include:
            return text
        text = self._held + text
        safe = len(text) - self._automaton.length[self._state]
        self._held = text[safe:]
        return text[:safe]
