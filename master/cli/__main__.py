"""`python -m master.cli` is the `council` command of a checkout that is not installed."""

from master.cli.main import main

main()
