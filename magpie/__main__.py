"""`python -m magpie`, which is the command `magpie`."""

from magpie.cli import main

main()
