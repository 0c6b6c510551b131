"""How alembic reaches the state: by the connection it is handed, or by a URL on its own command line."""

import os
from logging.config import fileConfig

from alembic import context
from sqlalchemy import Connection

from audiencesync.store.engine import open_engine
from audiencesync.store.tables import metadata


def run(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=metadata, compare_type=True, transactional_ddl=True,
                      render_as_batch=connection.dialect.name == "sqlite")
    with context.begin_transaction():
        context.run_migrations()


def main() -> None:
    connection = context.config.attributes.get("connection")
    if connection is not None:
        run(connection)
        return
    if context.config.config_file_name:
        fileConfig(context.config.config_file_name, disable_existing_loggers=False)
    url = context.get_x_argument(as_dictionary=True).get("url") or os.environ.get("AUDIENCESYNC_STATE")
    if not url:
        raise SystemExit("say which state: alembic -x url=sqlite:///audiencesync.db, or set AUDIENCESYNC_STATE")
    with open_engine(url).connect().execution_options(writes=True) as own, own.begin():
        run(own)


main()
