"""`python -m magpie.cli`, which is the command `magpie`."""

from magpie.cli import main

main()
