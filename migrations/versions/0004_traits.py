"""What computed traits add: each user's values, and what kind of value each trait of a run is."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("memberships", sa.Column("value", sa.Text()))
    op.add_column("runs", sa.Column("traits", sa.Text()))


def downgrade() -> None:
    op.drop_column("runs", "traits")
    op.drop_column("memberships", "value")
