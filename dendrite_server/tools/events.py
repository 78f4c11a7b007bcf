"""What reading a completion with tools yields, piece by piece."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Content:
    """Text that is no tool call."""

    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """What the model thinks before it speaks."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStart:
    """The `index`-th tool call begins; its arguments follow as `CallArguments`."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """More of a call's arguments; all of a call's fragments together are one JSON text."""

    index: int
    fragment: str


Event = Content | Reasoning | CallStart | CallArguments
