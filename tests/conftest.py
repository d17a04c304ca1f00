"""Lets test modules import the modules that lie beside this file; keeps the user's schedules out of them."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
os.environ["TPU_DEPLOY_NO_CACHE"] = "1"
