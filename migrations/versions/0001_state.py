"""The first tables of the state."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

MOMENT = sa.DateTime(timezone=True)
USER = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table("acts",
        sa.Column("id", SERIAL, nullable=False),
        sa.Column("at", MOMENT, nullable=False),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("command", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text()),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_acts"))
    )
    op.create_table("computations",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("id_kind", sa.Text()),
        sa.Column("definition_hash", sa.Text()),
        sa.Column("paused_at", MOMENT),
        sa.Column("pause_reason", sa.Text()),
        sa.Column("retired_at", MOMENT),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_computations")),
        sa.UniqueConstraint("key", name=op.f("uq_computations_key"))
    )
    op.create_table("destinations",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.Text()),
        sa.Column("paused_at", MOMENT),
        sa.Column("pause_reason", sa.Text()),
        sa.Column("retry_at", MOMENT),
        sa.Column("retry_reason", sa.Text()),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_destinations"))
    )
    op.create_table("leases",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("holder", sa.Text()),
        sa.Column("fence", sa.BigInteger(), nullable=False),
        sa.Column("expires", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_leases"))
    )
    op.create_table("syncs",
        sa.Column("id", SERIAL, nullable=False),
        sa.Column("destination", sa.Text(), nullable=False),
        sa.Column("mode", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("secret", sa.LargeBinary(), nullable=False),
        sa.Column("retries_due", MOMENT, nullable=False),
        sa.Column("claimed", USER),
        sa.Column("acknowledged", USER),
        sa.Column("total", sa.BigInteger(), nullable=False),
        sa.Column("sent", sa.BigInteger(), nullable=False),
        sa.Column("rejected", sa.BigInteger(), nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.Column("opened_at", MOMENT, nullable=False),
        sa.Column("closed_at", MOMENT),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_syncs"))
    )
    op.create_index("ix_syncs_destination", "syncs", ["destination", "status"])
    op.create_table("memberships",
        sa.Column("computation_id", sa.Integer(), nullable=False),
        sa.Column("user_id", USER, nullable=False),
        sa.Column("since_run", sa.Integer(), nullable=False),
        sa.Column("until_run", sa.Integer()),
        sa.Column("included", sa.Text()),
        sa.PrimaryKeyConstraint("computation_id", "user_id", "since_run", name=op.f("pk_memberships")),
        sqlite_with_rowid=False
    )
    op.create_table("positions",
        sa.Column("destination", sa.Text(), nullable=False),
        sa.Column("computation_id", sa.Integer(), nullable=False),
        sa.Column("run", sa.Integer(), nullable=False),
        sa.Column("settled_at", MOMENT),
        sa.ForeignKeyConstraint(["computation_id"], ["computations.id"], name=op.f("fk_positions_computation_id")),
        sa.PrimaryKeyConstraint("destination", "computation_id", name=op.f("pk_positions"))
    )
    op.create_table("rejections",
        sa.Column("destination", sa.Text(), nullable=False),
        sa.Column("computation_id", sa.Integer(), nullable=False),
        sa.Column("user_id", USER, nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("status", sa.Integer()),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("since", MOMENT, nullable=False),
        sa.Column("next_try", MOMENT, nullable=False),
        sa.Column("sync_id", SERIAL, nullable=False),
        sa.PrimaryKeyConstraint("destination", "computation_id", "user_id", name=op.f("pk_rejections")),
        sqlite_with_rowid=False
    )
    op.create_table("runs",
        sa.Column("computation_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("as_of", MOMENT, nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("members", sa.BigInteger(), nullable=False),
        sa.Column("entered", sa.BigInteger(), nullable=False),
        sa.Column("exited", sa.BigInteger(), nullable=False),
        sa.Column("changed", sa.BigInteger(), nullable=False),
        sa.Column("duplicates", sa.BigInteger(), nullable=False),
        sa.Column("error", sa.Text()),
        sa.Column("started_at", MOMENT, nullable=False),
        sa.Column("ended_at", MOMENT, nullable=False),
        sa.ForeignKeyConstraint(["computation_id"], ["computations.id"], name=op.f("fk_runs_computation_id")),
        sa.PrimaryKeyConstraint("computation_id", "number", name=op.f("pk_runs"))
    )
    op.create_index("ix_runs_ended_at", "runs", ["ended_at"])
    op.create_table("spans",
        sa.Column("sync_id", SERIAL, nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("computation_id", sa.Integer(), nullable=False),
        sa.Column("from_run", sa.Integer(), nullable=False),
        sa.Column("to_run", sa.Integer(), nullable=False),
        sa.Column("envelope", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["computation_id"], ["computations.id"], name=op.f("fk_spans_computation_id")),
        sa.ForeignKeyConstraint(["sync_id"], ["syncs.id"], name=op.f("fk_spans_sync_id")),
        sa.PrimaryKeyConstraint("sync_id", "ordinal", name=op.f("pk_spans"))
    )
    op.create_index("ix_spans_computation_id", "spans", ["computation_id"])


def downgrade() -> None:
    op.drop_index("ix_spans_computation_id", "spans")
    op.drop_table("spans")
    op.drop_index("ix_runs_ended_at", "runs")
    op.drop_table("runs")
    op.drop_table("rejections")
    op.drop_table("positions")
    op.drop_table("memberships")
    op.drop_index("ix_syncs_destination", "syncs")
    op.drop_table("syncs")
    op.drop_table("leases")
    op.drop_table("destinations")
    op.drop_table("computations")
    op.drop_table("acts")
