"""CPU and memory by the minute, and when people are there by hour of the week"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "usage_minutes",
        sa.Column("node", sa.String(length=63), nullable=False),
        sa.Column("part", sa.String(length=16), nullable=False),
        sa.Column("at", sa.Integer(), nullable=False),
        sa.Column("cpu_percent", sa.Float(), nullable=True),
        sa.Column("cpu_max", sa.Float(), nullable=True),
        sa.Column("memory_bytes", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("node", "part", "at", name=op.f("pk_usage_minutes")),
    )
    op.create_index(op.f("ix_usage_minutes_at"), "usage_minutes", ["at"])
    op.create_table(
        "activity_hours",
        sa.Column("hour", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("active", sa.Float(), nullable=False),
        sa.Column("watched", sa.Float(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("hour", name=op.f("pk_activity_hours")),
    )
