"""What destinations taught of their people, and what was used up of their limits."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

NAME = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table("identities",
        sa.Column("destination", sa.Text(), nullable=False),
        sa.Column("name", NAME, nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("destination", "name", name=op.f("pk_identities")),
        sqlite_with_rowid=False
    )
    op.add_column("destinations", sa.Column("day", sa.Text()))
    op.add_column("destinations", sa.Column("used", sa.Integer()))
    op.add_column("destinations", sa.Column("paced", sa.Text()))


def downgrade() -> None:
    for column in ("paced", "used", "day"):
        op.drop_column("destinations", column)
    op.drop_table("identities")
