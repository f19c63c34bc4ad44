"""``python -m stvg``, and so ``torchrun -m stvg train-head …``."""

from .cli import main

main()
