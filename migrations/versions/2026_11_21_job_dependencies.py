"""Jobs that need other jobs to succeed before they run.

Revision: 0002, after 0001.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = '0002'
down_revision = '0001'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('job_dependencies',
        sa.Column('job_id', sa.String(length=64), nullable=False),
        sa.Column('needs_id', sa.String(length=64), nullable=False),
        sa.Column('tenant_id', sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(['job_id'], ['jobs.id'], name=op.f('fk_job_dependencies_job_id_jobs')),
        sa.ForeignKeyConstraint(['needs_id'], ['jobs.id'], name=op.f('fk_job_dependencies_needs_id_jobs')),
        sa.PrimaryKeyConstraint('job_id', 'needs_id', name=op.f('pk_job_dependencies'))
    )
    op.create_index('ix_job_dependencies_needs_id', 'job_dependencies', ['needs_id'], unique=False)


def downgrade() -> None:
    op.drop_index('ix_job_dependencies_needs_id', table_name='job_dependencies')
    op.drop_table('job_dependencies')
