"""A worker node: one PC's engines behind one small, stateless HTTP API."""
