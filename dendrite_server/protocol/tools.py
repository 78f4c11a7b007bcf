"""Tools: what is understood of them today, everything else refused by name.

A request may say that it wants none (`tool_choice: "none"`), because that is what it gets.
"""

from __future__ import annotations

from dendrite_server.protocol.fields import Fields, invalid, unsupported, wrong_type

_NO_TOOLS = "Tool calling is not available on this server yet; only tool_choice 'none' can be honoured."


def read_tools(fields: Fields) -> None:
    """Take the tool fields. With `tool_choice: "none"` tools are checked and kept from the prompt."""
    tools = fields.array("tools") or []
    choice = fields.take("tool_choice")
    fields.boolean("parallel_tool_calls")
    if choice is not None and not isinstance(choice, str | dict):
        raise wrong_type(fields.path("tool_choice"), "a string or an object", choice)
    if tools and choice != "none":
        raise unsupported(fields.path("tools"), _NO_TOOLS)
    if not tools and choice not in (None, "none"):
        raise invalid(fields.path("tool_choice"), "it is only allowed when 'tools' are specified.")
