"""The network card's address of a node, to wake its PC"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("nodes", sa.Column("mac", sa.String(length=17), nullable=True))
