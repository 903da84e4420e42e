#!/usr/bin/env bash
# Measure on one GPU: four configs in float32 and bfloat16 beside torch.compile, with the share of the GPU's peak.
#
#   launch/gpu.sh [IDX_DIR]            launch/gpu.sh ../data/mnist
#   launch/gpu.sh --cpu [IDX_DIR]      the same on the CPU, as briefly as possible, to test this script
#
# IDX_DIR holds MNIST's four IDX files; without it the examples are the digits. JAX and PyTorch must both see the GPU
# (pip install 'jax[cuda12]' torch==2.13.0, or jax[cuda13] if the driver needs it). torch.compile needs a C++ compiler.
# Time: about 40 minutes.
#
# The table is printed and written to runs/gpu.md, its numbers to runs/gpu/DEVICE_DATA/*.json ($RUNS replaces runs). An
# existing file is not measured again, so the same command resumes. If a measurement fails, its error is printed and the
# others continue. Exit code: 0, 1 if one failed, 2 without a GPU. PYTHON is the interpreter.
set -euo pipefail

cpu=
[ "${1:-}" != --cpu ] || { cpu=1; shift; }
[[ $# -le 1 && ${1:-} != -* ]] || { echo "usage: launch/gpu.sh [--cpu] [IDX_DIR]" >&2; exit 2; }
examples=digits
source=
if [ $# = 1 ]; then
  [ -d "$1" ] || { echo "launch/gpu.sh: no folder $1" >&2; exit 2; }
  examples=mnist
  source=":idx:$(realpath "$1")"
fi
cd "$(dirname "$0")/.."

python=${PYTHON:-python}
if [ -n "$cpu" ]; then
  export JAX_PLATFORMS=cpu CUDA_VISIBLE_DEVICES=
  device=cpu
  flags=(--seconds=0.1 --alternations=1 --config.train.log_steps=5)
else
  find='import jax; device = jax.devices()[0]; print(device.device_kind if device.platform == "gpu" else "")'
  device=$("$python" -c "$find" 2>/dev/null) || device=
  hint="python -c 'import jax; print(jax.devices())' may say why; launch/gpu.sh --cpu tries the rest"
  [ -n "$device" ] || { echo "launch/gpu.sh: JAX sees no GPU: $hint" >&2; exit 2; }
  flags=(--seconds=5 --alternations=3)
fi
runs=${RUNS:-runs}
folder="$runs/gpu/${device//[^[:alnum:]]/_}_$examples"
mkdir -p "$folder"

failed=0
measure() {  # NAME, then flags: the numbers go to NAME.json, errors to NAME.log
  local file="$folder/$1" code=0
  [ ! -e "$file.json" ] || return 0
  echo "== $1"
  "$python" -m aejax.benchmark "${@:2}" "${flags[@]}" --json="$file.json" 2>"$file.log" || code=$?
  case $code in
    0) rm "$file.log" ;;
    130 | 143) exit "$code" ;;  # stopped, not failed
    *)
      failed=1
      line=$(grep -v '^[[:space:]]*$' "$file.log" | tail -n 1 || true)
      echo "launch/gpu.sh: $1: ${line:-exit code $code}" >&2
      ;;
  esac
}

rows=("deep 256" "vae 256" "conv 128" "contractive 128")  # with the batches of the table of docs/speed.md
for row in "${rows[@]}"; do
  read -r name batch <<<"$row"
  for dtype in float32 bfloat16; do
    own=("--config=configs/$name.py$source" "--config.train.batch_size=$batch" "--config.model.dtype=$dtype")
    own+=(--config.mesh.data=1 --config.data.resident=true)  # PyTorch trains on one GPU, too
    measure "${name}_$dtype" "${own[@]}"
    measure "${name}_${dtype}_torch" "${own[@]}" --vs=torch
  done
done

"$python" - "$folder" "$device" "$examples" "${rows[@]}" >"$runs/gpu.md.part" <<'END'
import json, pathlib, sys
folder, device, examples, *rows = sys.argv[1:]

def read(name):
    file = pathlib.Path(folder, name + ".json")
    return json.loads(file.read_text()) if file.exists() else {}

def share(own):
    if "share_of_peak" in own:
        peak = own["peak_operations_per_second"] / 1e12
        return f"{100 * own['share_of_peak']:.2g} % of {peak:.4g} T/s, {own['peak_arithmetic']}"
    return f"{100 * own['share_of_limit']:.3g} % of the limit measured" if own else "failed"

print(f"{device}, {examples}; ms per step, medians; a ratio above 1 means that aejax is faster.\n")
print("| config | batch | dtype | aejax, ms | torch.compile, ms | torch.compile / aejax | share of peak |")
print("|---|---|---|---|---|---|---|")
for row in rows:
    name, batch = row.split()
    for dtype in ("float32", "bfloat16"):
        own, both = read(f"{name}_{dtype}"), read(f"{name}_{dtype}_torch")
        time = both.get("aejax_ms_per_step", own.get("ms_per_step"))
        cells = [f"{time:.4g}" if time else "failed", "failed", "failed"]
        if both:
            low, high = both["ratio_vs_torch_compile_quartiles"]
            ratio = f"{both['ratio_vs_torch_compile']:.2f} ({low:.2f} to {high:.2f})"
            cells[1:] = [f"{both['torch_compile_ms_per_step']:.4g}", ratio]
        print("|", " | ".join([f"`{name}`", batch, dtype, *cells, share(own)]), "|")
END
mv "$runs/gpu.md.part" "$runs/gpu.md"
cat "$runs/gpu.md"
exit "$failed"
