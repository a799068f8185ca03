"""Archives of conversations, with a checkpoint for each chunk"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)


def _of_archive() -> sa.Column[str]:
    return sa.Column("archive_id", sa.String(length=36), nullable=False)


def _belongs(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["archive_id"], ["archives.id"], name=op.f(f"fk_{table}_archive_id_archives"), ondelete="CASCADE"
    )


def upgrade() -> None:
    op.create_table(
        "archives",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("raw_sha256", sa.String(length=64), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("source", sa.String(length=16), nullable=False),
        sa.Column("reference", sa.String(length=200), nullable=True),
        sa.Column("conversation_id", sa.String(length=36), nullable=True),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("messages_count", sa.Integer(), nullable=False),
        sa.Column("characters", sa.Integer(), nullable=False),
        sa.Column("chunks_total", sa.Integer(), nullable=False),
        sa.Column("watermark", sa.Integer(), nullable=False),
        sa.Column("quick_summary", sa.Text(), nullable=False),
        sa.Column("quick_summary_by", sa.String(length=400), nullable=True),
        sa.Column("job_id", sa.String(length=64), nullable=True),
        sa.Column("schema_version", sa.Integer(), nullable=False),
        sa.Column("model", sa.String(length=400), nullable=True),
        sa.Column("prompt_hash", sa.String(length=64), nullable=True),
        sa.Column("practice", sa.Boolean(), nullable=False),
        sa.Column("prompt_tokens", sa.Integer(), nullable=False),
        sa.Column("completion_tokens", sa.Integer(), nullable=False),
        sa.Column("items_count", sa.Integer(), nullable=False),
        sa.Column("dropped", sa.Integer(), nullable=False),
        sa.Column("superseded_by", sa.String(length=36), nullable=True),
        sa.Column("occurred_at", _TIME, nullable=True),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("updated_at", _TIME, nullable=False),
        sa.Column("structured_at", _TIME, nullable=True),
        sa.Column("origin_deleted_at", _TIME, nullable=True),
        sa.Column("notes", sa.JSON(), nullable=False),
        sa.Column("plan", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("structured", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("messages", sa.Text(), nullable=False),
        sa.Column("search_text", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_archives")),
        sa.UniqueConstraint("raw_sha256", name=op.f("uq_archives_raw_sha256")),
    )
    op.create_index(op.f("ix_archives_conversation_id"), "archives", ["conversation_id"])
    op.create_index(op.f("ix_archives_superseded_by"), "archives", ["superseded_by"])
    op.create_index("ix_archives_newest", "archives", ["created_at", "id"])
    op.create_index("ix_archives_status", "archives", ["status", "created_at"])
    op.create_table(
        "archive_sessions",
        _of_archive(),
        sa.Column("session_id", sa.String(length=36), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        _belongs("archive_sessions"),
        sa.PrimaryKeyConstraint("archive_id", "session_id", name=op.f("pk_archive_sessions")),
    )
    op.create_index(op.f("ix_archive_sessions_session_id"), "archive_sessions", ["session_id"])
    op.create_table(
        "archive_chunks",
        _of_archive(),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("input_sha256", sa.String(length=64), nullable=False),
        sa.Column("sections", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("form", sa.String(length=16), nullable=False),
        sa.Column("dropped", sa.Integer(), nullable=False),
        sa.Column("model", sa.String(length=400), nullable=False),
        sa.Column("practice", sa.Boolean(), nullable=False),
        sa.Column("prompt_hash", sa.String(length=64), nullable=False),
        sa.Column("prompt_tokens", sa.Integer(), nullable=False),
        sa.Column("completion_tokens", sa.Integer(), nullable=False),
        sa.Column("duration_ms", sa.Float(), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        _belongs("archive_chunks"),
        sa.PrimaryKeyConstraint("archive_id", "number", name=op.f("pk_archive_chunks")),
    )
    op.create_index(op.f("ix_archive_chunks_input_sha256"), "archive_chunks", ["input_sha256"])
    op.create_table(
        "archive_terms",
        _of_archive(),
        sa.Column("term", sa.String(length=64), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        _belongs("archive_terms"),
        sa.PrimaryKeyConstraint("archive_id", "term", name=op.f("pk_archive_terms")),
    )
    op.create_index(op.f("ix_archive_terms_term"), "archive_terms", ["term"])
