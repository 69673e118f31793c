"""``python -m desk.door.keycommand``: keys of programs, as ``dermbatch desk keys`` asks for them, in JSON."""

from __future__ import annotations

import argparse
import getpass
import json
import sys

from dermbatch.audit import Audit
from dermbatch.errors import DermbatchError, UsageError
from dermbatch.ledger.connection import Connection
from dermbatch.records.access import Role
from dermbatch.settings import load
from dermbatch.store import ObjectStore
from desk.door.keys import Keys, shown
from desk.problems import Problem


def main() -> None:
    """Do it."""
    parser = argparse.ArgumentParser()
    kinds = parser.add_subparsers(dest="what", required=True)
    add = kinds.add_parser("add")
    add.add_argument("name")
    add.add_argument("--role", type=Role, action="append", default=[])
    add.add_argument("--days", type=int, required=True)
    add.add_argument("--tenant")
    kinds.add_parser("list")
    kinds.add_parser("revoke").add_argument("id")
    try:
        print(json.dumps(_done(parser.parse_args())))
    except (DermbatchError, Problem) as error:
        usage = isinstance(error, UsageError | Problem)
        print(f"dermbatch: {error}", file=sys.stderr)
        sys.exit(2 if usage else 1)


def _done(asked: argparse.Namespace) -> object:
    settings = load()
    store = ObjectStore(settings.store, Audit(settings.audit, "dermbatch-desk", command=True))
    keys = Keys(store, Connection(settings.redis).redis)
    by = getpass.getuser()
    match asked.what:
        case "add":
            key, made = keys.add(asked.name, tuple(asked.role), by, asked.days, asked.tenant)
            return {"key": key, **shown(made)}
        case "revoke":
            keys.revoke(asked.id, by)
            return {}
    return keys.all()


if __name__ == "__main__":
    main()
