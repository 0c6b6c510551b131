"""What a service remembers: slots, decisions on held changes, alerts told, destinations an audience left."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table("slots",
        sa.Column("schedule", sa.Text(), nullable=False),
        sa.Column("at", MOMENT, nullable=False),
        sa.Column("as_of", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("schedule", "at", name=op.f("pk_slots"))
    )
    op.create_table("decisions",
        sa.Column("destination", sa.Text(), nullable=False),
        sa.Column("computation_id", sa.Integer(), nullable=False),
        sa.Column("to_run", sa.Integer(), nullable=False),
        sa.Column("entered", sa.BigInteger(), nullable=False),
        sa.Column("exited", sa.BigInteger(), nullable=False),
        sa.Column("verdict", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["computation_id"], ["computations.id"], name=op.f("fk_decisions_computation_id")),
        sa.PrimaryKeyConstraint("destination", "computation_id", name=op.f("pk_decisions"))
    )
    op.create_table("alerts",
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("destination", sa.Text(), nullable=False),
        sa.Column("told_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("channel", "kind", "subject", name=op.f("pk_alerts"))
    )
    op.add_column("positions", sa.Column("retired_at", MOMENT))
    op.add_column("positions", sa.Column("clear_as_of", MOMENT))
    op.add_column("destinations", sa.Column("paused_by", sa.Text()))


def downgrade() -> None:
    op.drop_column("destinations", "paused_by")
    op.drop_column("positions", "clear_as_of")
    op.drop_column("positions", "retired_at")
    op.drop_table("alerts")
    op.drop_table("decisions")
    op.drop_table("slots")
