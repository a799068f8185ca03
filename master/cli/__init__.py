"""The `council` command. It talks to a master by HTTP and WebSocket only, like every other client.

Imports stay inside the functions that need them: `council --help` answers at once.
"""
