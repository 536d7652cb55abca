#!/usr/bin/env bash
# What a machine with a GPU says about nearkin. `cargo xtask bundle` packs this script with everything it needs but the
# GPU's driver, glibc and, for the peers, Python with torch and transformers.
#
#     ./run.sh [--small] [--emulator] [--suite NAME] [--some] [--jobs N] [--seconds N] [--only FAMILIES] [--case PART] [--limit N] [--results FOLDER] [--python PROGRAM]
#
# It runs the whole suite on CUDA and on Vulkan, writes the outputs of every operation with the emulator and with the
# GPU and compares them bit for bit, and times every operation beside its peers. All that is written goes to one folder:
#
#     machine.json           what the machine is
#     steps.jsonl            a line for each step: its exit status, its time, the tests that passed and failed
#     suite/DEVICE/NAME.txt  what the tests said
#     outputs/               outputs of the emulator and of the GPU, and compared.md
#     bench/                 nearkin.jsonl and peers.jsonl, with what was said beside them
#
# `cargo xtask report --from FOLDER` makes tables and plots of it. The exit status is 1 where a step failed.
#
# --small cuts the benchmarks to sizes that mean nothing but end soon, and leaves out tests that take an emulator or a
# software adapter minutes; --emulator puts the emulator in the place of the driver: together they are the rehearsal.
# --suite runs only this binary of the suite; --some writes the outputs of some cases only; --jobs runs so many of its
# binaries at once, and with --emulator families. --only names the families that are timed, --case a part of their cases'
# names; --seconds is the measured time of a case, --limit the time that a step may take.
set -uo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
small= emulator= suite=* python=${PYTHON:-python3} results=$here/results limit=3600 jobs=1 seconds=1 part=
families= write=(write)
while [ $# -gt 0 ]; do
    case $1 in
        --small) small=--small ;;
        --emulator) emulator=1 ;;
        --suite) suite=${2:?--suite needs a name} && shift ;;
        --some) write=(write --some) ;;
        --jobs) jobs=${2:?--jobs needs a number} && shift ;;
        --seconds) seconds=${2:?--seconds needs a number} && shift ;;
        --only) families=${2:?--only needs families} && shift ;;
        --case) part=${2:?--case needs a part of a name} && shift ;;
        --limit) limit=${2:?--limit needs a number of seconds} && shift ;;
        --results) results=${2:?--results needs a folder} && shift ;;
        --python) python=${2:?--python needs a program} && shift ;;
        *) echo "run.sh: unknown option '$1'; there are --small, --emulator, --suite, --some, --jobs, --seconds, --only, --case, --limit, --results and --python" >&2 && exit 2 ;;
    esac
    shift
done
if [ -e "$results" ] && [ -n "$(ls -A "$results")" ]; then
    echo "run.sh: $results is not empty" >&2 && exit 2
fi
families=${families:-$("$here/bin/gpu" --families | tr '\n' ' ')}
[ -n "$families" ] || { echo "run.sh: $here/bin/gpu does not run" >&2 && exit 2; }
mkdir -p "$results"/{suite,outputs,bench} && results=$(cd "$results" && pwd) || exit 2
export NEARKIN_ROOT=$here NEARKIN_MINILM=$here/models/all-MiniLM-L6-v2 RUST_BACKTRACE=0
# A GPU has time for the slow forms of tests.
[ -n "$small" ] || export NEARKIN_EXHAUSTIVE=1

# In front of a command: the emulator in the place of libcuda, or CUDA as this run has it.
emulated=(env LD_LIBRARY_PATH="$here/emulator${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}")
cuda=(env)
[ -n "$emulator" ] && cuda=("${emulated[@]}")

# step NAME COMMAND...: runs the command and writes a line about it. What it says goes to NAME.txt; stdout to $out
# instead, where that is set.
step() {
    local name=$1 log=$results/$1.txt began=$SECONDS status=0
    shift
    mkdir -p "$(dirname "$log")"
    if [ -n "${out:-}" ]; then
        timeout "$limit" "$@" >>"$results/$out" 2>"$log" || status=$?
    else
        timeout "$limit" "$@" >"$log" 2>&1 || status=$?
    fi
    local count='{ n += $1 } END { print n + 0 }'
    local passed failed
    passed=$(grep -aoE '[0-9]+ passed;' "$log" | awk "$count")
    failed=$(grep -aoE '[0-9]+ failed;' "$log" | awk "$count")
    local tests=
    [ $((passed + failed)) -gt 0 ] && tests=",\"passed\":$passed,\"failed\":$failed"
    printf '{"step":"%s","status":%d,"seconds":%d%s}\n' "$name" "$status" $((SECONDS - began)) "$tests" >>"$results/steps.jsonl"
    if [ "$status" = 0 ]; then
        printf '%-28spassed in %d s\n' "$name" $((SECONDS - began))
    else
        printf '%-28sFAILED with status %d, see %s\n' "$name" "$status" "$log"
    fi
    return "$status"
}

# suite DEVICE BINARY COMMAND...: runs a binary of the suite. What failed runs again, each test alone: a fault of the
# device fails all tests that come after it in one process.
suite() {
    local name=suite/$1/$(basename "$2") binary=$2
    shift 2
    step "$name" "$@" "$binary" "${brief[@]}" && return
    local failed
    failed=$(sed -n '/^failures:$/,$s/^    \([a-z_0-9:]*\)$/\1/p' "$results/$name.txt" | sort -u)
    for test in $failed; do
        echo "== $test"
        timeout 120 "$@" "$binary" --exact "$test" 2>&1 | tail -n 40
    done >"$results/$name-alone.txt"
}

# Waits until fewer than $jobs run.
room() {
    while [ "$(jobs -pr | wc -l)" -ge "$jobs" ]; do
        wait -n
    done
}

# skip NAME WHY: a step that cannot be.
skip() {
    printf '%-28sskipped: %s\n' "$1" "$2"
    printf '{"step":"%s","skipped":"%s"}\n' "$1" "$2" >>"$results/steps.jsonl"
}

first() { head -n 1 | tr -d '"\\' | tr -s ' \t' ' '; }

describe() {
    local devices gpu=
    devices=$("${cuda[@]}" "$here/bin/nearkin" devices --json 2>/dev/null)
    command -v nvidia-smi >/dev/null &&
        gpu=$(nvidia-smi --query-gpu=name,driver_version,clocks.max.sm,clocks.max.mem,power.limit --format=csv,noheader 2>/dev/null | first)
    cat <<JSON
{
  "date": "$(date -u +%Y-%m-%d)",
  "emulated": $([ -n "$emulator" ] && echo true || echo false),
  "small": $([ -n "$small" ] && echo true || echo false),
  "gpu": "$gpu",
  "cpu": "$(grep -m 1 'model name' /proc/cpuinfo | cut -d: -f2 | sed 's/^ //' | first)",
  "cores": $(nproc),
  "system": "$(uname -srm | first)",
  "python": "$("$python" --version 2>&1 | first)",
  "emulator_as_built": ${as_built:-null},
  "bundle": $(cat "$here/bundle.json"),
  "devices": ${devices:-null}
}
JSON
}

has_wgpu() { "$here/bin/nearkin" devices --json 2>/dev/null | grep -q '"id": *"wgpu:0"'; }

brief=()
[ -n "$small" ] && brief=(--skip a_result_does_not_depend_on_its_batch --skip every_device_ranks_real_passages_alike)

# What torch.compile makes of the models meanwhile is found again when they are timed.
if [ -z "$small" ]; then
    for family in encode vision; do
        [[ " $families " = *" $family "* ]] || continue
        room
        step "compile/$family" "$python" "$here/peers/gpu.py" --seconds 0.01 --only "$family" --case "$part" \
            --model "$NEARKIN_MINILM" &
    done
fi

# The suite on CUDA alone, then on Vulkan alone.
for binary in "$here"/suite/$suite; do
    room
    suite cuda "$binary" "${cuda[@]}" NEARKIN_REQUIRE=cpu,cuda VK_DRIVER_FILES=/nonexistent &
done
if has_wgpu; then
    on_vulkan=("$here"/suite/$suite)
    # A software adapter takes minutes for the others.
    [ -n "$small" ] && [ "$suite" = "*" ] && on_vulkan=("$here"/suite/{device,hostile})
    for binary in "${on_vulkan[@]}"; do
        room
        suite vulkan "$binary" env NEARKIN_REQUIRE=cpu,wgpu CUDA_VISIBLE_DEVICES=-1 &
    done
else
    skip suite/vulkan "no Vulkan adapter: nearkin devices lists none"
fi

# All are written here, so that all have this processor's logarithms in their random inputs. How matrix units add depends on the
# architecture: where the emulator knows the GPU's, it is asked again as that.
outputs=$results/outputs reference=emulator
architecture=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -n 1 | tr -d .)
room
step outputs/emulator "${emulated[@]}" "$here/bin/outputs" "${write[@]}" cuda "$outputs/emulator.safetensors" &
if [ "$architecture" = 90 ] && [ -z "$emulator" ]; then
    reference=emulator-90
    room
    step outputs/$reference "${emulated[@]}" PTX_EMULATOR_DEVICES=sm_90 \
        "$here/bin/outputs" "${write[@]}" cuda "$outputs/$reference.safetensors" &
fi
room
step outputs/gpu "${cuda[@]}" "$here/bin/outputs" "${write[@]}" cuda "$outputs/gpu.safetensors" &
wait
out=outputs/compared.md step outputs/compare \
    "$here/bin/outputs" compare "$outputs/$reference.safetensors" "$outputs/gpu.safetensors"
as_built=false
(cd "$results/outputs" && sha256sum --status -c "$here/emulator.sha256") && as_built=true

# A family's peers come right after it, on a GPU as warm as it was.
measure() {
    local how=($small --seconds "$seconds" --only "$1" --case "$part")
    out=bench/nearkin.jsonl step "bench/nearkin-$1" "${cuda[@]}" "$here/bin/gpu" "${how[@]}"
    out=bench/peers.jsonl step "bench/peers-$1" \
        "$python" "$here/peers/gpu.py" "${how[@]}" --model "$NEARKIN_MINILM"
}
for family in $families; do
    # Of an emulator the times mean nothing.
    if [ -n "$emulator" ]; then
        room
        measure "$family" &
    else
        measure "$family"
    fi
done
wait
describe >"$results/machine.json"

failed=$(grep -c '"status":[^0]' "$results/steps.jsonl")
echo "$(wc -l <"$results/steps.jsonl") steps, $failed failed: $results"
[ "$failed" = 0 ]
