"""What the master and the worker nodes both speak. Imports neither of them."""

__version__ = "0.1.0"
PROTOCOL_VERSION = 1
