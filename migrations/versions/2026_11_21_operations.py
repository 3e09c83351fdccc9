"""Retried and deleted jobs; devices, versions, quarantine and drain of workers.

Revision: 0003, after 0002. Expand only: code of the revision before goes on working.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = '0003'
down_revision = '0002'
branch_labels = None
depends_on = None

TIMESTAMP = sa.DateTime(timezone=True)
JSON = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), 'postgresql')


def upgrade() -> None:
    op.add_column('jobs', sa.Column('retried_from', sa.String(length=64), nullable=True))
    op.add_column('jobs', sa.Column('deleted_at', TIMESTAMP, nullable=True))
    op.create_index('ix_jobs_deleted_at', 'jobs', ['deleted_at'], unique=False)
    op.add_column('workers', sa.Column('devices', JSON, server_default=sa.text("'[]'"), nullable=False))
    op.add_column('workers', sa.Column('software', JSON, server_default=sa.text("'{}'"), nullable=False))
    op.add_column('workers', sa.Column('quarantined_reason', sa.Text(), nullable=True))
    op.add_column('workers', sa.Column('drain_requested', sa.Boolean(), server_default=sa.false(), nullable=False))


def downgrade() -> None:
    op.drop_column('workers', 'drain_requested')
    op.drop_column('workers', 'quarantined_reason')
    op.drop_column('workers', 'software')
    op.drop_column('workers', 'devices')
    op.drop_index('ix_jobs_deleted_at', table_name='jobs')
    op.drop_column('jobs', 'deleted_at')
    op.drop_column('jobs', 'retried_from')
