"""`python -m cloutagent` is the `cloutagent` command."""

from __future__ import annotations

from cloutagent.cli import main

if __name__ == "__main__":
    main()
