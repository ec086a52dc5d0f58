"""Entry of the fork server: ``python -m sweep.process FD``; needs no ``__main__`` guard in the user's script."""

from __future__ import annotations

import sys

from sweep.process.server import main

main(int(sys.argv[1]))
