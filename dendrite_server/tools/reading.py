"""`Reading`: one answer being read as it is written, into thoughts, text and tool calls.

`Speech` says what there is to be told apart in the answers of one request, and makes a reading of each.
"""

from __future__ import annotations

from dataclasses import dataclass

from dendrite_server.tools.events import Content, Event, Reasoning
from dendrite_server.tools.formats import ToolFormat
from dendrite_server.tools.parsers import Parser
from dendrite_server.tools.reasoning import Thoughts, ThoughtTokens


class Reading:
    """Push text, get events; `finish` flushes. Without `parallel` what follows the first call is dropped."""

    def __init__(
        self, parser: Parser | None = None, thoughts: Thoughts | None = None, *, parallel: bool = True
    ) -> None:
        self._parser = parser
        self._thoughts = thoughts
        self._parallel = parallel

    @property
    def calls(self) -> int:
        """Tool calls begun so far."""
        calls = self._parser.calls if self._parser else 0
        return calls if self._parallel else min(calls, 1)

    def push(self, text: str) -> list[Event]:
        if self._thoughts is None:
            return self._read(text)
        thought, said = self._thoughts.push(text)
        return [*_thought(thought), *self._read(said)]

    def finish(self) -> list[Event]:
        events: list[Event] = []
        if self._thoughts is not None:
            thought, said = self._thoughts.finish()
            events = [*_thought(thought), *self._read(said)]
        return [*events, *self._kept(self._parser.finish())] if self._parser else events

    def _read(self, text: str) -> list[Event]:
        if not text:
            return []
        return self._kept(self._parser.push(text)) if self._parser else [Content(text)]

    def _kept(self, events: list[Event]) -> list[Event]:
        if self._parallel:
            return events
        return [event for event in events if isinstance(event, Content | Reasoning) or event.index == 0]


def _thought(text: str) -> list[Event]:
    return [Reasoning(text)] if text else []


@dataclass(frozen=True, slots=True, kw_only=True)
class Speech:
    """`calls`: the format of tool calls, None when there are none to be read. `inside`: the prompt has
    opened a thought. Without `shows_thoughts` they are left out; `legacy` calls are `function_call`s.
    """

    calls: ToolFormat | None = None
    parallel: bool = True
    thinks: bool = False
    inside: bool = False
    shows_thoughts: bool = True
    legacy: bool = False

    def reading(self) -> Reading:
        parser = self.calls.parser() if self.calls else None
        return Reading(parser, Thoughts(inside=self.inside) if self.thinks else None, parallel=self.parallel)

    def thought_tokens(self) -> ThoughtTokens | None:
        """A counter for one answer's thought, where there can be one."""
        return ThoughtTokens(inside=self.inside) if self.thinks else None


PLAIN_SPEECH = Speech()
