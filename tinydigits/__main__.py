"""`python -m tinydigits` is the command `tinydigits`."""

from tinydigits.cli import main

main()
