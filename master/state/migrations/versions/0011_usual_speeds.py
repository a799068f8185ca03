"""What is usual for each learned speed: a slowed node is known as such after a restart"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("speeds", schema=None) as batch_op:
        batch_op.add_column(sa.Column("usual", sa.Float(), server_default="0", nullable=False))
