"""From branches to what is written down of them, and back."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from typing import Any

from dendrite_core.cache.branch import Branch
from dendrite_core.engine.branches import BranchBook
from dendrite_core.engine.keeping.journal import Entries, Journal, Saved
from dendrite_core.engine.keeping.record import Constraint, Record
from dendrite_core.errors import DendriteError
from dendrite_core.params import GrammarSpec
from dendrite_core.text.grammar import Grammar, GrammarCompiler

log = logging.getLogger("dendrite.engine")


def entries(book: BranchBook, journal: Journal, also_running: bool) -> Entries:
    """What a journal has to write, with or without what is still being generated."""
    return journal.take(
        lambda branch: write_down(book, branch),
        lambda branch: also_running or book.running(branch) is None,
    )


def write_down(book: BranchBook, branch: Branch) -> Saved:
    """A branch as it is now. Times are wall-clock seconds, as the monotonic clock begins anew."""
    record = branch.record
    assert isinstance(record, Record)
    facts: dict[str, Any] = {
        "kind": record.kind,
        "completion": record.completion,
        "finish_reason": record.finish_reason,
        "metadata": record.metadata,
        "pinned": branch.pinned,
    }
    if record.pinned_until is not None:
        facts["pinned_until"] = time.time() + record.pinned_until - time.monotonic()
    if record.constraint is not None:
        spec = record.constraint.grammar.spec
        facts["constraint"] = [spec.kind, spec.source, spec.param, record.constraint.start]
    return Saved(
        name=book.name(branch),
        parent=None if branch.parent is None else book.name(branch.parent),
        start=branch.start,
        tokens=tuple(branch.own),
        namespace=branch.namespace,
        listed=book.cache.lookup(branch.id) is not None,
        facts=facts,
    )


def compile_constraints(saved: Iterable[Saved], grammars: GrammarCompiler) -> dict[GrammarSpec, Grammar]:
    """The grammars that saved branches are held to; one that does not compile any more is left out."""
    found: dict[GrammarSpec, Grammar] = {}
    for spec in {spec for one in saved if (spec := _spec_of(one.facts)) is not None}:
        try:
            found[spec] = grammars.compile(spec)
        except DendriteError as error:
            log.warning("branches that were held to a %s go on without it: %s", spec.kind, error)
    return found


def restore(book: BranchBook, saved: Iterable[Saved], grammars: Mapping[GrammarSpec, Grammar]) -> int:
    """Make the branches again, under their names, without KV; how many have one.

    Takes them in the order given, so that those used last count as used last. One whose past is missing is
    left out, as are nameless ones that are nobody's past.
    """
    waiting = {one.name: one for one in saved}
    made: dict[str, Branch] = {}
    for name in list(waiting):
        for one in reversed(_way_down(waiting, made, name)):
            made[one.name] = _make(book, one, made, grammars)
            del waiting[one.name]
    nameless = [branch for one in saved if not one.listed and (branch := made.get(one.name))]
    for branch in reversed(nameless):
        branch.holds -= 1
        book.cache.release(branch)
    for branch in made.values():
        if book.cache.lookup(branch.id) is not None:
            branch.holds -= 1
    book.cache.records.reconsider()
    if waiting:
        log.warning("%d branches were not restored: their past was not kept", len(waiting))
    return len(made) - len(nameless)


def _way_down(waiting: Mapping[str, Saved], made: Mapping[str, Branch], name: str) -> list[Saved]:
    """The branch and what has to be made before it, nearest first; nothing if that cannot be."""
    way = []
    next_one: str | None = name
    while next_one is not None and next_one not in made:
        if next_one not in waiting:
            return []
        way.append(waiting[next_one])
        next_one = way[-1].parent
    return way


def _make(
    book: BranchBook, one: Saved, made: Mapping[str, Branch], grammars: Mapping[GrammarSpec, Grammar]
) -> Branch:
    if one.parent is None:
        branch = book.cache.open(one.tokens, one.namespace)
    else:
        branch = book.cache.fork(made[one.parent], one.start)
        branch.extend(one.tokens)
    facts = one.facts
    record = Record(facts["kind"], facts["completion"], facts["finish_reason"])
    record.metadata = dict(facts["metadata"])
    spec = _spec_of(facts)
    if spec is not None and spec in grammars:
        record.constraint = Constraint(grammars[spec], facts["constraint"][3])
    # Held until all are made, as a limit on records may take the first ones to make room for the last.
    branch.holds += 1
    book.adopt(branch, record, one.name)
    if facts["pinned"]:
        until = facts.get("pinned_until")
        book.update(one.name, True, None if until is None else until - time.time(), None)
    return branch


def _spec_of(facts: Mapping[str, Any]) -> GrammarSpec | None:
    held = facts.get("constraint")
    return None if held is None else GrammarSpec(kind=held[0], source=held[1], param=held[2])
