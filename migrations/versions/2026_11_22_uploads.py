"""Uploads and their parts; jobs by data set.

Revision: 0005, after 0004. Expand only: code of the revision before goes on working.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = '0005'
down_revision = '0004'
branch_labels = None
depends_on = None

TIMESTAMP = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        'uploads',
        sa.Column('id', sa.String(length=64), nullable=False),
        sa.Column('tenant_id', sa.String(length=64), nullable=False),
        sa.Column('state', sa.String(length=16), nullable=False),
        sa.Column('filename', sa.String(length=255), nullable=False),
        sa.Column('media_type', sa.String(length=127), nullable=False),
        sa.Column('size_bytes', sa.BigInteger(), nullable=False),
        sa.Column('sha256', sa.String(length=64), nullable=False),
        sa.Column('part_bytes', sa.Integer(), nullable=False),
        sa.Column('version', sa.Integer(), nullable=False),
        sa.Column('created_at', TIMESTAMP, nullable=False),
        sa.Column('touched_at', TIMESTAMP, nullable=False),
        sa.Column('expires_at', TIMESTAMP, nullable=False),
        sa.Column('ended_at', TIMESTAMP, nullable=True),
        sa.CheckConstraint("state IN ('open', 'complete', 'cancelled', 'expired')", name=op.f('ck_uploads_state')),
        sa.PrimaryKeyConstraint('id', name=op.f('pk_uploads')),
    )
    op.create_index('ix_uploads_tenant_id_created_at_id', 'uploads', ['tenant_id', 'created_at', 'id'], unique=False)
    op.create_table(
        'upload_parts',
        sa.Column('upload_id', sa.String(length=64), nullable=False),
        sa.Column('number', sa.Integer(), autoincrement=False, nullable=False),
        sa.Column('tenant_id', sa.String(length=64), nullable=False),
        sa.Column('size_bytes', sa.BigInteger(), nullable=False),
        sa.Column('sha256', sa.String(length=64), nullable=False),
        sa.Column('key', sa.String(length=512), nullable=False),
        sa.Column('created_at', TIMESTAMP, nullable=False),
        sa.ForeignKeyConstraint(['upload_id'], ['uploads.id'], name=op.f('fk_upload_parts_upload_id_uploads')),
        sa.PrimaryKeyConstraint('upload_id', 'number', name=op.f('pk_upload_parts')),
    )
    op.create_index('ix_jobs_tenant_id_dataset', 'jobs', ['tenant_id', 'dataset'], unique=False)


def downgrade() -> None:
    op.drop_index('ix_jobs_tenant_id_dataset', table_name='jobs')
    op.drop_table('upload_parts')
    op.drop_index('ix_uploads_tenant_id_created_at_id', table_name='uploads')
    op.drop_table('uploads')
