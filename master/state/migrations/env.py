"""Alembic's entry: it works on the connection that `migrate.py` hands over."""

from alembic import context

from master.state.tables import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,
    transaction_per_migration=False,
)
context.run_migrations()
