"""`python -m pose2id`, where the command `pose2id` is not on the path."""

import sys

from pose2id.cli import main

sys.exit(main())
