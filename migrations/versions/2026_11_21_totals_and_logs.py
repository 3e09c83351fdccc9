"""What removed rows had counted for in the totals that Prometheus reads; logs of attempts; indexes behind foreign keys.

Revision: 0004, after 0003. Expand only: code of the revision before goes on working.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = '0004'
down_revision = '0003'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        'totals',
        sa.Column('name', sa.String(length=64), nullable=False),
        sa.Column('labels', sa.String(length=255), nullable=False),
        sa.Column('tenant_id', sa.String(length=64), nullable=False),
        sa.Column('value', sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint('name', 'labels', name=op.f('pk_totals')),
    )
    op.add_column('attempts', sa.Column('log_key', sa.String(length=512), nullable=True))
    op.add_column('attempts', sa.Column('log_bytes', sa.BigInteger(), nullable=True))
    op.create_index('ix_jobs_parent_id', 'jobs', ['parent_id'], unique=False)
    op.create_index('ix_idempotency_keys_job_id', 'idempotency_keys', ['job_id'], unique=False)


def downgrade() -> None:
    op.drop_index('ix_idempotency_keys_job_id', table_name='idempotency_keys')
    op.drop_index('ix_jobs_parent_id', table_name='jobs')
    op.drop_column('attempts', 'log_bytes')
    op.drop_column('attempts', 'log_key')
    op.drop_table('totals')
