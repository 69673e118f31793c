"""``python -m dermbatch.bounded FD MODULE ...``: what reading processes are forked from, see ``nursery.py``."""

from __future__ import annotations

import sys

from dermbatch.bounded.nursery import main

if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
