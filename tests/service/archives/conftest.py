"""One small cluster for the module, as for the tests of the master."""

from __future__ import annotations

from tests.service.master.conftest import cluster, shared_cluster

__all__ = ["cluster", "shared_cluster"]
