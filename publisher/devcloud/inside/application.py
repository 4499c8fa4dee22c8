"""The WSGI application for uWSGI: that of the module in DEVCLOUD_APPLICATION.

SQLite fails at once with "database is locked", without waiting, if two transactions have both read and then both want
to write; and oslo.db begins each transaction with a plain BEGIN. Of several concurrent uploads, most would get a 500.
BEGIN IMMEDIATE takes the write lock first, so that transactions wait for each other instead.
"""

import importlib
import os

import sqlalchemy
from sqlalchemy import event


@event.listens_for(sqlalchemy.Engine, "begin")
def begin_immediate(connection: sqlalchemy.Connection) -> None:
    """Begin with the write lock, and tell oslo.db's own listener that the transaction has begun."""
    if connection.dialect.name == "sqlite" and "in_transaction" not in connection.info:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        connection.info["in_transaction"] = True


application = importlib.import_module(os.environ["DEVCLOUD_APPLICATION"]).application
