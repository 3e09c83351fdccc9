"""Where the log of an attempt lies.

Revision: 0005, after 0004. Expand only: code of the revision before goes on working.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = '0005'
down_revision = '0004'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column('attempts', sa.Column('log_key', sa.String(length=512), nullable=True))
    op.add_column('attempts', sa.Column('log_bytes', sa.BigInteger(), nullable=True))


def downgrade() -> None:
    op.drop_column('attempts', 'log_bytes')
    op.drop_column('attempts', 'log_key')
