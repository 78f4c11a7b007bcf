"""Search over thoughts: Tree of Thoughts, MCTS, beams, samples, and the tree to write your own on."""

from dendrite_core.search.backend import Backend, Place, TokenCount
from dendrite_core.search.backends.in_process import EngineBackend, ResendingEngine
from dendrite_core.search.backends.over_http import DendriteBackend, PlainBackend
from dendrite_core.search.budget import Budget, BudgetExhausted
from dendrite_core.search.evaluators import Call, JSONCheck, Judge, MeanLogprob, RegexCheck
from dendrite_core.search.events import Event, Result
from dendrite_core.search.generators import Propose, Sample, Template
from dendrite_core.search.methods.beam import BeamSearch
from dendrite_core.search.methods.mcts import MonteCarlo
from dendrite_core.search.methods.samples import BestOf, SelfConsistency
from dendrite_core.search.methods.tot import TreeOfThoughts
from dendrite_core.search.search import Search
from dendrite_core.search.tree import Branch, Tree

__all__ = [
    "Backend",
    "BeamSearch",
    "BestOf",
    "Branch",
    "Budget",
    "BudgetExhausted",
    "Call",
    "DendriteBackend",
    "EngineBackend",
    "Event",
    "JSONCheck",
    "Judge",
    "MeanLogprob",
    "MonteCarlo",
    "Place",
    "PlainBackend",
    "Propose",
    "RegexCheck",
    "ResendingEngine",
    "Result",
    "Sample",
    "Search",
    "SelfConsistency",
    "Template",
    "TokenCount",
    "Tree",
    "TreeOfThoughts",
]
