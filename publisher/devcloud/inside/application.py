"""The WSGI application that uWSGI serves: the one of the module that DEVCLOUD_APPLICATION names.

SQLite gives "database is locked" at once, without waiting, when two transactions have both read and then
both want to write; and oslo.db begins each with a plain BEGIN. Of uploads at the same time, most would get a
500. BEGIN IMMEDIATE takes the write lock first, so that they wait for each other instead.
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
