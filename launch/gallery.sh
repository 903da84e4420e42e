#!/usr/bin/env bash
# Train every variant of the docs' gallery and lectures on built-in data, run their uses, and fill both pages.
#
#   launch/gallery.sh [OUT]        OUT: folder of the runs, by default runs/gallery; a finished run is not repeated
#
# Hardware: 2 CPU cores. To change: PYTHON is the interpreter. See gallery.py.
set -euo pipefail
cd "$(dirname "$0")/.."
exec "${PYTHON:-python}" launch/gallery.py "${1:-runs/gallery}"
