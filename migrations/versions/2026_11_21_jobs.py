"""Jobs, their attempts, events, metrics, artifacts and checkpoints; idempotency keys; workers; ticks.

Revision: 0001, the first.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = '0001'
down_revision = None
branch_labels = None
depends_on = None

TIMESTAMP = sa.DateTime(timezone=True)
JSON = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), 'postgresql')


def upgrade() -> None:
    op.create_table('jobs',
        sa.Column('id', sa.String(length=64), nullable=False),
        sa.Column('tenant_id', sa.String(length=64), nullable=False),
        sa.Column('kind', sa.String(length=32), nullable=False),
        sa.Column('state', sa.String(length=16), nullable=False),
        sa.Column('spec', JSON, nullable=False),
        sa.Column('recipe', sa.String(length=64), nullable=False),
        sa.Column('dataset', sa.String(length=64), nullable=False),
        sa.Column('queue', sa.String(length=32), nullable=False),
        sa.Column('priority', sa.String(length=8), nullable=False),
        sa.Column('attempt', sa.Integer(), nullable=False),
        sa.Column('failures', sa.Integer(), nullable=False),
        sa.Column('max_attempts', sa.Integer(), nullable=False),
        sa.Column('boot_id', sa.String(length=64), nullable=True),
        sa.Column('lease_until', TIMESTAMP, nullable=True),
        sa.Column('next_run_at', TIMESTAMP, nullable=False),
        sa.Column('sent_at', TIMESTAMP, nullable=True),
        sa.Column('send_count', sa.Integer(), nullable=False),
        sa.Column('progress', JSON, nullable=True),
        sa.Column('result', JSON, nullable=True),
        sa.Column('error', JSON, nullable=True),
        sa.Column('reason', JSON, nullable=True),
        sa.Column('event_seq', sa.Integer(), nullable=False),
        sa.Column('version', sa.Integer(), nullable=False),
        sa.Column('created_at', TIMESTAMP, nullable=False),
        sa.Column('queued_at', TIMESTAMP, nullable=False),
        sa.Column('started_at', TIMESTAMP, nullable=True),
        sa.Column('finished_at', TIMESTAMP, nullable=True),
        sa.Column('parent_id', sa.String(length=64), nullable=True),
        sa.Column('content_key', sa.String(length=128), nullable=True),
        sa.CheckConstraint("state IN ('waiting', 'queued', 'running', 'cancelling', 'succeeded', 'failed', 'cancelled')", name=op.f('ck_jobs_state')),
        sa.ForeignKeyConstraint(['parent_id'], ['jobs.id'], name=op.f('fk_jobs_parent_id_jobs')),
        sa.PrimaryKeyConstraint('id', name=op.f('pk_jobs')),
        sa.UniqueConstraint('tenant_id', 'content_key', name=op.f('uq_jobs_tenant_id_content_key'))
    )
    op.create_index('ix_jobs_state_lease_until', 'jobs', ['state', 'lease_until'], unique=False)
    op.create_index('ix_jobs_state_next_run_at', 'jobs', ['state', 'next_run_at'], unique=False)
    op.create_index('ix_jobs_tenant_id_created_at_id', 'jobs', ['tenant_id', 'created_at', 'id'], unique=False)
    op.create_table('ticks',
        sa.Column('name', sa.String(length=32), nullable=False),
        sa.Column('tenant_id', sa.String(length=64), nullable=False),
        sa.Column('ticked_at', TIMESTAMP, nullable=False),
        sa.PrimaryKeyConstraint('name', name=op.f('pk_ticks'))
    )
    op.create_table('workers',
        sa.Column('boot_id', sa.String(length=64), nullable=False),
        sa.Column('tenant_id', sa.String(length=64), nullable=False),
        sa.Column('host', sa.String(length=255), nullable=False),
        sa.Column('pid', sa.Integer(), nullable=False),
        sa.Column('queues', sa.String(length=255), nullable=False),
        sa.Column('state', sa.String(length=16), nullable=False),
        sa.Column('job_id', sa.String(length=64), nullable=True),
        sa.Column('started_at', TIMESTAMP, nullable=False),
        sa.Column('seen_at', TIMESTAMP, nullable=False),
        sa.PrimaryKeyConstraint('boot_id', name=op.f('pk_workers'))
    )
    op.create_table('artifacts',
        sa.Column('id', sa.String(length=64), nullable=False),
        sa.Column('job_id', sa.String(length=64), nullable=False),
        sa.Column('tenant_id', sa.String(length=64), nullable=False),
        sa.Column('attempt', sa.Integer(), nullable=False),
        sa.Column('kind', sa.String(length=32), nullable=False),
        sa.Column('name', sa.String(length=255), nullable=False),
        sa.Column('media_type', sa.String(length=127), nullable=False),
        sa.Column('size_bytes', sa.BigInteger(), nullable=False),
        sa.Column('sha256', sa.String(length=64), nullable=False),
        sa.Column('key', sa.String(length=512), nullable=False),
        sa.Column('created_at', TIMESTAMP, nullable=False),
        sa.ForeignKeyConstraint(['job_id'], ['jobs.id'], name=op.f('fk_artifacts_job_id_jobs')),
        sa.PrimaryKeyConstraint('id', name=op.f('pk_artifacts')),
        sa.UniqueConstraint('job_id', 'name', name=op.f('uq_artifacts_job_id_name'))
    )
    op.create_index('ix_artifacts_tenant_id_job_id', 'artifacts', ['tenant_id', 'job_id'], unique=False)
    op.create_table('attempts',
        sa.Column('job_id', sa.String(length=64), nullable=False),
        sa.Column('number', sa.Integer(), nullable=False),
        sa.Column('tenant_id', sa.String(length=64), nullable=False),
        sa.Column('boot_id', sa.String(length=64), nullable=False),
        sa.Column('started_at', TIMESTAMP, nullable=False),
        sa.Column('finished_at', TIMESTAMP, nullable=True),
        sa.Column('outcome', sa.String(length=16), nullable=True),
        sa.Column('error', JSON, nullable=True),
        sa.Column('resumed_from_step', sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(['job_id'], ['jobs.id'], name=op.f('fk_attempts_job_id_jobs')),
        sa.PrimaryKeyConstraint('job_id', 'number', name=op.f('pk_attempts'))
    )
    op.create_table('checkpoints',
        sa.Column('job_id', sa.String(length=64), nullable=False),
        sa.Column('attempt', sa.Integer(), nullable=False),
        sa.Column('step', sa.Integer(), nullable=False),
        sa.Column('tenant_id', sa.String(length=64), nullable=False),
        sa.Column('size_bytes', sa.BigInteger(), nullable=False),
        sa.Column('sha256', sa.String(length=64), nullable=False),
        sa.Column('key', sa.String(length=512), nullable=False),
        sa.Column('created_at', TIMESTAMP, nullable=False),
        sa.ForeignKeyConstraint(['job_id'], ['jobs.id'], name=op.f('fk_checkpoints_job_id_jobs')),
        sa.PrimaryKeyConstraint('job_id', 'attempt', 'step', name=op.f('pk_checkpoints'))
    )
    op.create_table('events',
        sa.Column('job_id', sa.String(length=64), nullable=False),
        sa.Column('seq', sa.Integer(), nullable=False),
        sa.Column('tenant_id', sa.String(length=64), nullable=False),
        sa.Column('type', sa.String(length=32), nullable=False),
        sa.Column('level', sa.String(length=8), nullable=False),
        sa.Column('attempt', sa.Integer(), nullable=False),
        sa.Column('message', sa.Text(), nullable=False),
        sa.Column('data', JSON, nullable=False),
        sa.Column('created_at', TIMESTAMP, nullable=False),
        sa.ForeignKeyConstraint(['job_id'], ['jobs.id'], name=op.f('fk_events_job_id_jobs')),
        sa.PrimaryKeyConstraint('job_id', 'seq', name=op.f('pk_events'))
    )
    op.create_table('idempotency_keys',
        sa.Column('tenant_id', sa.String(length=64), nullable=False),
        sa.Column('scope', sa.String(length=128), nullable=False),
        sa.Column('key', sa.String(length=255), nullable=False),
        sa.Column('fingerprint', sa.String(length=64), nullable=False),
        sa.Column('job_id', sa.String(length=64), nullable=False),
        sa.Column('created_at', TIMESTAMP, nullable=False),
        sa.ForeignKeyConstraint(['job_id'], ['jobs.id'], name=op.f('fk_idempotency_keys_job_id_jobs')),
        sa.PrimaryKeyConstraint('tenant_id', 'scope', 'key', name=op.f('pk_idempotency_keys'))
    )
    op.create_table('metrics',
        sa.Column('job_id', sa.String(length=64), nullable=False),
        sa.Column('name', sa.String(length=128), nullable=False),
        sa.Column('step', sa.Integer(), nullable=False),
        sa.Column('tenant_id', sa.String(length=64), nullable=False),
        sa.Column('attempt', sa.Integer(), nullable=False),
        sa.Column('value', sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(['job_id'], ['jobs.id'], name=op.f('fk_metrics_job_id_jobs')),
        sa.PrimaryKeyConstraint('job_id', 'name', 'step', name=op.f('pk_metrics'))
    )


def downgrade() -> None:
    op.drop_table('metrics')
    op.drop_table('idempotency_keys')
    op.drop_table('events')
    op.drop_table('checkpoints')
    op.drop_table('attempts')
    op.drop_index('ix_artifacts_tenant_id_job_id', table_name='artifacts')
    op.drop_table('artifacts')
    op.drop_table('workers')
    op.drop_table('ticks')
    op.drop_index('ix_jobs_tenant_id_created_at_id', table_name='jobs')
    op.drop_index('ix_jobs_state_next_run_at', table_name='jobs')
    op.drop_index('ix_jobs_state_lease_until', table_name='jobs')
    op.drop_table('jobs')
