#!/usr/bin/env bash
# Train on every host of a Cloud TPU pod slice; run it on a machine with gcloud:
#
#   launch/tpu_pod.sh NAME ZONE --config=configs/deep.py:idx:/mnt/data/mnist --workdir=/mnt/runs/deep
#
# Hardware: an existing slice, such as v5litepod-16 (4 hosts of 4 chips), made with
#   gcloud compute tpus tpu-vm create NAME --zone=ZONE --accelerator-type=v5litepod-16 --version=v2-alpha-tpuv5-lite
# The hosts need Python 3.11 (it is installed if it is missing) and read access to REPOSITORY, which holds REVISION.
# Time: 5 minutes to set up, once; then that of the run. The same command resumes after a host was lost or preempted.
# To change: all hosts must see the data and --workdir (a Filestore or Cloud Storage mount); REPOSITORY and REVISION
# are what is installed; --config.mesh.model=4 splits wide layers over the chips of a host.
set -euo pipefail

usage="usage: launch/tpu_pod.sh NAME ZONE --config=FILE --workdir=DIR ..."
name=${1:?$usage}
zone=${2:?$usage}
shift 2
repository=${REPOSITORY:-$(git -C "$(dirname "$0")/.." remote get-url origin)}
revision=${REVISION:-$(git -C "$(dirname "$0")/.." rev-parse HEAD)}

on_all_hosts() {
  gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="$1"
}

on_all_hosts "set -e
[ -d aejax ] || git clone --quiet $(printf %q "$repository") aejax
cd aejax && git fetch --quiet && git checkout --quiet $(printf %q "$revision")
command -v python3.11 >/dev/null || { sudo apt-get -qq update && sudo apt-get -qq install python3.11-venv; }
[ -d .venv ] || python3.11 -m venv .venv
.venv/bin/pip install --quiet -r requirements.txt 'jax[tpu]' -e ."

# The hosts find each other. If a host is lost, the others end within a minute, and ssh with them.
code=0
on_all_hosts "cd aejax && .venv/bin/python -m aejax.main $(printf '%q ' "$@") --distributed" || code=$?
[ "$code" -eq 0 ] || echo "launch/tpu_pod.sh: ended with exit code $code; the same command resumes" >&2
exit "$code"
