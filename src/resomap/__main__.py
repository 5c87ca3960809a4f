"""`python -m resomap`, and what `torchrun -m resomap` starts."""

from resomap.cli.main import main

main()
