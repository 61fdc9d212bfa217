"""`python -m pose2id.cli`."""

import sys

from pose2id.cli import main

sys.exit(main())
