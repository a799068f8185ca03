"""A scriptable Ollama for tests and benchmarks; see README.md in this folder."""

from tests.standin.faults import Fault, FaultKind
from tests.standin.journal import CallRecord, Counters
from tests.standin.model import Reply, StandInModel
from tests.standin.ollama import StandInOllama
from tests.standin.process import StandInProcess

__all__ = [
    "CallRecord",
    "Counters",
    "Fault",
    "FaultKind",
    "Reply",
    "StandInModel",
    "StandInOllama",
    "StandInProcess",
]
