"""``python -m deltalab`` is the ``deltalab`` command."""

from deltalab.cli import main

main()
