#!/usr/bin/env bash
# Train, or predict, in N processes on this machine, as on N machines, to test a distributed run.
#
#   launch/local.sh N --config=configs/NAME.py[:SOURCE] [--workdir=DIR] [--config.section.field=value ...]
#   launch/local.sh N predict --workdir=DIR --input=parquet:FILE --output=FOLDER.parquet [--what=scores ...]
#
# Hardware: any machine with CPU cores; the processes share them, so that one process alone is faster. Time: that of
# the run. To change: JAX_NUM_CPU_DEVICES=2 gives each process two devices; PYTHON is the interpreter. GPUs of one
# machine need no launcher: one process uses all of them.
#
# Exit code: that of the run (0, 2, 3, 143). If a process was lost, one line names it and the exit code is that of the
# process. The same command resumes from the last checkpoint. SIGTERM is passed on.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 2

n=${1:-}
[[ $n =~ ^[1-9][0-9]*$ ]] || { echo "usage: launch/local.sh N --config=FILE ..., N processes" >&2; exit 2; }
shift
command=main
[[ ${1:-} != predict ]] || { command=predict; shift; }
python=${PYTHON:-python}
grace=60  # seconds for the others to end by themselves
export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu}
port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("localhost", 0)); print(s.getsockname()[1])') || exit 2

pids=()
trap '[ "${#pids[@]}" -eq 0 ] || kill -TERM "${pids[@]}"' TERM INT
for ((i = 0; i < n; i++)); do
  "$python" -m "aejax.$command" "$@" --distributed --coordinator="localhost:$port" --processes="$n" --process_id="$i" &
  pids+=($!)
done
exec 3>&2 2>/dev/null  # bash reports a killed process in words of its own

codes=()
deadline=
worst=0  # the process whose exit code is reported
rank=0
while [ "${#codes[@]}" -lt "$n" ]; do
  for ((i = 0; i < n; i++)); do
    if [ -z "${codes[i]:-}" ] && ! kill -0 "${pids[i]}"; then
      wait "${pids[i]}"
      codes[i]=$?
      case ${codes[i]} in
        0) continue ;;
        4) r=1 ;;  # it lost another process, whose end may be seen later
        134) r=2 ;;  # the same, reported by JAX's abort, or its own abort
        *) r=3 ;;
      esac
      deadline=${deadline:-$((SECONDS + grace))}
      [ "$r" -le "$rank" ] || { worst=$i; rank=$r; }
    fi
  done
  if [ -n "$deadline" ] && [ "$SECONDS" -gt "$deadline" ]; then
    kill -KILL "${pids[@]}"
  fi
  sleep 0.2
done

case ${codes[worst]} in 0 | 2 | 3 | 4 | 143) ;; *)
  echo "launch/local.sh: process $worst of $n was lost (exit code ${codes[worst]})" >&3 ;;
esac
exit "${codes[worst]}"
