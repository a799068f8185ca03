"""The master: council, cluster, state, API, page and command line of one PC."""
