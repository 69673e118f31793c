"""``python -m desk.door.links URL``: prints a one-time link to the desk at this address."""

from __future__ import annotations

import getpass
import sys

from dermbatch.errors import DermbatchError
from dermbatch.ledger.connection import Connection
from dermbatch.settings import load
from desk.door.sessions import Sessions


def main() -> None:
    """Print it."""
    try:
        settings = load()
        token = Sessions(Connection(settings.redis).redis, settings.desk.session).link(getpass.getuser())
    except DermbatchError as error:
        sys.exit(f"dermbatch: {error}")
    print(f"{sys.argv[1].rstrip('/')}/enter?link={token}")


if __name__ == "__main__":
    main()
