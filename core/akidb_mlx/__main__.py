"""`python -m akidb_mlx`."""

import sys

from akidb_mlx.cli import main

sys.exit(main())
