"""Alembic's revisions; `master/state/migrate.py` runs them."""
