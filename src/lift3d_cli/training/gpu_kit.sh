#!/usr/bin/env bash
# Tests, trains, evaluates and times lift3d on this machine's GPU, with what is in this folder and nothing else.
#
#   run.sh MINUTES OUT [PART]     train PART (renderer) for MINUTES; the rest takes some minutes more
#
# A training that was begun goes on: from OUT/state.safetensors, else from state.safetensors here. It follows one
# schedule of TOTAL minutes (12) over all calls. Each step fails alone. In OUT at most 8 files, which are written as they come:
# weights.safetensors with manifest.json, state.safetensors, curves.csv, log.txt, figures.json, sheet.jpg.
set -u
MINUTES=${1:?usage: run.sh MINUTES OUT [PART]} OUT=${2:?usage: run.sh MINUTES OUT [PART]} PART=${3:-renderer}
mkdir -p "$OUT" && OUT=$(cd "$OUT" && pwd)
KIT=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
exec > >(tee -a "$OUT/log.txt") 2>&1
exec 3>&1
cd "$KIT"
export PYTHONPATH="$KIT/src" PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 LIFT3D_CACHE="$WORK/cache"
PYTHON=${PYTHON:-$(command -v python3 || command -v python)}
lift3d() { "$PYTHON" -m lift3d_cli "$@"; }
TOTAL=${TOTAL:-12} BATCH=${BATCH:-6} RATE=${RATE:-7e-4} HEIGHT=${HEIGHT:-480} PROCEDURAL=${PROCEDURAL:-0.3}
CORES=$(nproc); WORKERS=${WORKERS:-$((CORES > 4 ? CORES / 2 : 1))}
EVAL_HEIGHT=${EVAL_HEIGHT:-320} DEV=${DEV:-$KIT/dev} TRAIN=${TRAIN:-$KIT/train}

step() { # NAME SECONDS COMMAND...: says how it went, and never ends the script
  local name=$1 limit=$2 start=$SECONDS
  shift 2
  echo "== $name" >&3
  timeout -k 10 "$limit" "$@"
  local rc=$?
  echo "== $name: exit $rc, $((SECONDS - start)) s" >&3
  return $rc
}
export -f lift3d
export PYTHON
results() { "$PYTHON" -m lift3d_cli.training.gpu_results "$@"; }
figure() { results figure "$OUT/figures.json" "$@"; } # NAME FILE: puts a JSON file into the figures

"$PYTHON" -c 'import torch; print(torch.__version__, torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU")'

# (a)
step tests 60 "$PYTHON" -m pytest -v --durations=5 -m gpu -p no:cacheprovider tests/ops tests/lifting tests/training

# What it begins with.
STATE=$OUT/state.safetensors RUN=$WORK/run
mkdir -p "$RUN"
if [ -f "$STATE" ]; then cp "$STATE" "$RUN/checkpoint.safetensors"
elif [ -f "$KIT/state.safetensors" ]; then cp "$KIT/state.safetensors" "$RUN/checkpoint.safetensors"; fi
[ -f "$OUT/curves.csv" ] && cp "$OUT/curves.csv" "$RUN/curves.csv"
# A schedule that is over begins to fall again from where so long a one would be.
TOTAL=$(results total "$RUN/checkpoint.safetensors" "$MINUTES" "$TOTAL")

evaluate() { # NAME SECONDS ARGUMENTS...: lift3d eval, whose figures get the name; where the GPU fails, on the CPU
  local name=$1 limit=$2
  shift 2
  for device in auto cpu; do
    step "evaluation, $name, $device" "$limit" bash -c 'to=$1; shift; lift3d eval "$@" --json > "$to"' - "$WORK/$name.json" "$@" --device $device \
      && figure "$name" "$WORK/$name.json" && return
  done
}

measured() { grep -q "\"$1\"" "$OUT/figures.json" 2>/dev/null; } # by a call before

# (c), before: once
measured before || evaluate before 150 --scenes "$DEV" --height "$EVAL_HEIGHT" --views 8

# (b): what is done is copied to OUT every half minute; memory that does not suffice costs half of the batch.
( while sleep 30; do
    for file in checkpoint.safetensors curves.csv; do
      to=$OUT/${file/checkpoint/state}
      [ "$RUN/$file" -nt "$to" ] && cp "$RUN/$file" "$to.part" && mv "$to.part" "$to"
    done
  done ) & COPYING=$!
train_for() { # at first, the surfaces of all photos are found
  step "training, batch $BATCH" "$(awk "BEGIN { print int(60 * $1 + 300) }")" bash -c 'lift3d train "$@"' - "$PART" "$TRAIN"/* \
    --textures "$KIT/textures" --batch "$BATCH" --minutes "$TOTAL" --stop-after "$1" --learning-rate "$RATE" \
    --height "$HEIGHT" --procedural "$PROCEDURAL" --workers "$WORKERS" --evaluate-every 100 --run "$RUN" --output "$OUT/weights.safetensors" --resume
}
BEGUN=$SECONDS
for _ in 1 2 3; do
  LEFT=$(awk "BEGIN { left = $MINUTES - ($SECONDS - $BEGUN) / 60; print (left > 0.2) ? left : 0 }")
  [ "$LEFT" = 0 ] && break
  train_for "$LEFT" && break
  BATCH=$((BATCH > 1 ? BATCH / 2 : 1))
done
kill "$COPYING" 2>/dev/null
[ -f "$RUN/checkpoint.safetensors" ] && cp "$RUN/checkpoint.safetensors" "$STATE"
[ -f "$RUN/curves.csv" ] && cp "$RUN/curves.csv" "$OUT/"
# The average of the last checkpoint, if the training did not live to write its weights.
[ -f "$OUT/weights.safetensors" ] || results weights "$STATE" "$OUT/weights.safetensors"

# (c), after
WEIGHTS=$OUT/weights.safetensors
evaluate after 180 --scenes "$DEV" --height "$EVAL_HEIGHT" --views 8 --weights "$WEIGHTS" --save "$WORK/pictures"
for scene in rail_a desk_monitors; do
  [ -d "$DEV/$scene" ] && evaluate "full_size_$scene" 60 "$DEV/$scene" --height 0 --views 10 --weights "$WEIGHTS"
done

# (d)
DEVICE=$("$PYTHON" -c 'import torch; print("cuda" if torch.cuda.is_available() else "cpu")')
measured training_speed || step "training speed" 60 "$PYTHON" benchmarks/training.py "$TRAIN"/* --device "$DEVICE" --batch "$BATCH" --height "$HEIGHT" \
  --rounds "${ROUNDS:-20}" --json > "$WORK/speed.json"
[ -s "$WORK/speed.json" ] && figure training_speed "$WORK/speed.json"
SIZE=${SIZE:-756}
measured frame_steps || step "steps of a frame" 90 "$PYTHON" benchmarks/frame_steps.py --device "$DEVICE" --height "$SIZE" --views 10 --rounds 5 --json \
  > "$WORK/frame_steps.json"
[ -s "$WORK/frame_steps.json" ] && figure frame_steps "$WORK/frame_steps.json"

# (e)
step sheet 60 "$PYTHON" -m lift3d_cli.training.gpu_results sheet "$WORK/pictures" "$OUT/sheet.jpg"

# Last, as it takes longest: what compiling would gain.
measured training_speed_compiled || step "training speed, compiled" 150 "$PYTHON" benchmarks/training.py "$TRAIN"/* --device "$DEVICE" --batch "$BATCH" --height "$HEIGHT" \
  --rounds "${ROUNDS:-20}" --compile --json > "$WORK/compiled.json"
[ -s "$WORK/compiled.json" ] && figure training_speed_compiled "$WORK/compiled.json"
ls -l "$OUT"
