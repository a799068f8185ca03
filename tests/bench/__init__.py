"""`make bench`: the figures of docs/benchmarks.md. One file per bench; `rig` starts what is measured."""
