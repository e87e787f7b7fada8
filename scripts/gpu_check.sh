#!/usr/bin/env bash
# Everything that takes a GPU, in one run of less than ten minutes: builds the CUDA kernels and their operators for this
# machine's GPU, tests them, looks for memory errors and races, and measures. Nothing is installed or downloaded.
#   scripts/gpu_check.sh [--dry-run] [--stages NAME,NAME...] [OUTPUT]
# OUTPUT (gpu_check_output) gets a log for each stage, the figures as JSON, and summary.txt. A stage that fails or takes
# too long does not stop the others. Exit status: 0 all well, 1 something failed, 2 there is no GPU (or bad arguments);
# with 2, and with --dry-run, it says what it would do. PYTHON=... chooses the interpreter, which must have torch.
# docs/cuda.md has more.
set -uo pipefail

# name, limit in seconds, what. Those marked + run beside each other: none of them is timed, and 16 cores are idle.
# The limits of the others and the longest of these come to 545 s.
stages='
look             20   the tools and packages that are there
build            130  the kernels, their operators and the test program, for this GPU only
resources        40+  registers, stack and spills of each kernel
device           120+ the kernels against those of the CPU, in C++
operators        150+ the tests of the operators, on the GPU
training         120+ the tests of training: compiled, mixed precision, CUDA graphs, several processes
memcheck         120+ the kernels on small cases, under compute-sanitizer: out of bounds, misaligned, leaks
racecheck        150+ the same: races in shared memory
initcheck        120+ the same: reads of memory that was never written
synccheck        120+ the same: barriers that not all threads reach
memcheck_torch   150+ some tests of the operators, under compute-sanitizer
bench_contextual 160  speed, memory and error of the contextual loss and its peers
bench_distance   45   bandwidth of the channel distances
train            40   the training example, with the eager loss and with the kernels
'

usage() { sed -n '2,9s/^# \{0,1\}//p' "$0"; }
bad() { printf '%s\n\n' "$1" >&2; usage >&2; exit 2; }

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-python3}
only= dry= inside= output=
while (($#)); do
    case $1 in
        -h | --help) usage; exit 0 ;;
        --dry-run) dry=1 ;;
        --stages) only=${2-}; [[ -n $only ]] || bad "--stages: expected names with commas between them"; shift ;;
        --run-stage) inside=${2-}; shift ;;  # how the script calls itself
        -*) bad "$1: no such option" ;;
        *) [[ -z $output ]] || bad "expected one folder, got $output and $1"; output=$1 ;;
    esac
    shift
done
output=${output:-gpu_check_output}

names() { awk 'NF {print $1}' <<<"$stages"; }
for name in ${only//,/ }; do
    names | grep -qx "$name" || bad "--stages: expected some of $(names | tr '\n' ' '), got $name"
done
chosen() { [[ -z $only || ,$only, == *,$1,* ]]; }

# ---- What each stage does. They run in OUTPUT; the exit status 77 means: cannot be done here, see the last line. ----

package=package
program=build/tests/cpp/test_cuda_device
library=$package/pe_runtime/libpe_runtime_torch_cuda.so
# Not the checkout's package, which has no libraries, or others.
export PYTHONPATH=$PWD/$package${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1

skip() { printf '%s\n' "$*"; exit 77; }
has_module() { "$python" -c "import $1" 2>/dev/null; }
find_tool() {
    local place
    for place in "$(command -v "$1")" "/usr/local/cuda/bin/$1"; do
        [[ -x $place ]] && echo "$place" && return
    done
    return 1
}

stage_look() {
    nvidia-smi || true
    for tool in nvcc cmake ninja c++ compute-sanitizer cuobjdump; do
        printf '%-18s %s\n' "$tool" "$(find_tool $tool || echo MISSING)"
    done
    "$python" --version
    "$python" - <<'PYTHON'
import importlib.util, torch
print("torch", torch.__version__, "of CUDA", torch.version.cuda, "with", torch.cuda.device_count(), "GPUs")
for number in range(torch.cuda.device_count()):
    print(torch.cuda.get_device_properties(number))
wanted = ("torchvision", "numpy", "safetensors", "PIL", "click", "rich", "onnx", "onnxscript", "matplotlib")
for name in (*wanted, "pytest", "hypothesis", "xdist", "skimage", "triton"):
    print(f"{name:18}", "there" if importlib.util.find_spec(name) else "MISSING")
PYTHON
    nvcc --version
}

stage_build() {
    command -v cmake >/dev/null || skip "cmake: command not found"
    find_tool nvcc >/dev/null || skip "nvcc: command not found"
    local architecture generator=()
    architecture=$("$python" -c 'import torch; print("%d%d" % torch.cuda.get_device_capability())') || return
    command -v ninja >/dev/null && generator=(-G Ninja)
    cmake -S "$repository" -B build "${generator[@]}" -D CMAKE_BUILD_TYPE=Release -D PE_TESTS=ON \
        -D PE_CUDA=ON -D "PE_CUDA_ARCHITECTURES=$architecture-real" -D CMAKE_CUDA_FLAGS=-lineinfo \
        -D PE_TORCH=ON -D "Python_EXECUTABLE=$(command -v "$python")" \
        -D PE_ORT=OFF -D PE_CAPI=OFF -D PE_GATE=OFF -D PE_PYTHON=OFF &&
        cmake --build build --parallel "$(nproc)" --target pe_torch pe_torch_cuda test_cuda_device || return
    rm -rf "$package" && mkdir -p "$package" && cp -R "$repository/pe_runtime" "$package" &&
        cp -R "$repository/export" "$package/pe_runtime/exporters" && rm -f "$package"/pe_runtime/*.so &&
        cmake --install build --component package --prefix "$package/pe_runtime" || return
    "$python" -c 'import sys; from pe_runtime import ops; sys.exit(ops.problem("cuda"))'
}

stage_resources() {
    local dump nvcc
    if dump=$(find_tool cuobjdump); then
        "$dump" --dump-resource-usage "$library" | sed 's/^ *//' >resources.txt || return
    else
        nvcc=$(find_tool nvcc) || skip "neither cuobjdump nor nvcc is there"
        # As the compiler says it, in the same words.
        for source in "$repository"/csrc/kernels/*_cuda.cu; do
            "$nvcc" -std=c++17 -O3 -arch=sm_90 -Xptxas -v -I "$repository/csrc/kernels" -c "$source" -o /dev/null
        done 2>&1 | sed -n -e 's/.*Compiling entry function .\([^ ]*\). for .*/Function \1:/p' \
            -e '/stack frame/{s/^ *\([0-9]*\) bytes stack frame, \([0-9]*\) bytes spill stores.*/STACK:\1 LOCAL:\2/;h}' \
            -e '/Used [0-9]* registers/{s/.*Used \([0-9]*\) registers.*/REG:\1 /;G;s/\n//;p}' >resources.txt
    fi
    command -v c++filt >/dev/null && c++filt <resources.txt >named.txt && mv named.txt resources.txt
    cat resources.txt
    awk '/REG:/ { n++; match($0, /REG:[0-9]+/); r = substr($0, RSTART + 4, RLENGTH - 4) + 0; if (r > most) most = r
                  match($0, /STACK:[0-9]+/); if (substr($0, RSTART + 6, RLENGTH - 6) > 0) stack++ }
         END { if (!n) exit 1; printf "%d kernels, %d registers at most, %d with a stack frame\n", n, most, stack }' \
        resources.txt
}

stage_device() { "$program"; }

# Tests of the checkout, with the package that was built.
run_pytest() {
    has_module pytest || skip "pytest is not installed for $python"
    local left_out=() parallel=() file
    if ! has_module hypothesis; then
        for file in $(grep -l '^from hypothesis' "$repository"/tests/python/test_*.py); do
            left_out+=("--ignore=$file")
        done
        printf 'hypothesis is not installed: left out %s\n' "${left_out[*]##*/}"
    fi
    has_module xdist && parallel=(--numprocesses "$1")
    shift
    "$python" -m pytest -c "$repository/pyproject.toml" --rootdir "$repository" -p no:cacheprovider -v \
        --maxfail 30 --durations 10 "${parallel[@]}" "${left_out[@]}" "$@"
}

# They ask for the kernels by kernels="native": "auto" takes the definitions on a GPU.
stage_operators() {
    PE_RUNTIME_TEST_DEVICE=cuda OMP_NUM_THREADS=2 run_pytest 6 "$repository"/tests/python/test_ops.py \
        "$repository"/tests/python/test_ops_{arguments,contextual,channel_distance,integration,opt_in,cuda}.py
}

stage_training() { OMP_NUM_THREADS=2 run_pytest 2 "$repository/tests/python/test_training.py"; }

sanitize() {
    local tool=$1 sanitizer status
    shift
    sanitizer=$(find_tool compute-sanitizer) || skip "compute-sanitizer: command not found"
    "$sanitizer" --tool "$tool" --error-exitcode 9 "$@" 2>&1 | tee "sanitizer-$$.txt"
    status=${PIPESTATUS[0]}
    if grep -qE 'Device not supported|Unable to (find|load)|LibraryNotLoaded' "sanitizer-$$.txt"; then
        skip "compute-sanitizer cannot run here: $(grep -m 1 -E 'not supported|Unable to|NotLoaded' "sanitizer-$$.txt")"
    fi
    rm -f "sanitizer-$$.txt"
    return "$status"
}

stage_memcheck() { sanitize memcheck --leak-check full "$program" small; }
stage_racecheck() { sanitize racecheck --racecheck-report all "$program" small; }
stage_initcheck() { sanitize initcheck "$program" small raw; }
stage_synccheck() { sanitize synccheck "$program" small; }

stage_memcheck_torch() {
    has_module pytest && has_module hypothesis || skip "pytest or hypothesis is not installed for $python"
    # Without torch's cache each tensor has an allocation of its own, whose end is seen. Kernels of this project only.
    PE_RUNTIME_TEST_DEVICE=cuda PYTORCH_NO_CUDA_MEMORY_CACHING=1 sanitize memcheck \
        --kernel-name kernel_substring=2pe --target-processes all "$python" -m pytest \
        -c "$repository/pyproject.toml" --rootdir "$repository" -p no:cacheprovider -q \
        "$repository"/tests/python/test_ops_{contextual,channel_distance}.py -k 'ties or nan or one_position or half_storage'
}

stage_bench_contextual() { "$python" "$repository/bench/cuda_contextual.py" --json cuda_contextual.json; }
stage_bench_distance() { "$python" "$repository/bench/cuda_channel_distance.py" --json cuda_channel_distance.json; }

stage_train() {
    has_module skimage || skip "scikit-image, whose photographs it takes, is not installed for $python"
    "$python" "$repository/examples/training/train_sr.py" --device cuda --steps 60 --output train_sr
}

if [[ -n $inside ]]; then
    "stage_$inside"
    exit
fi

# ---- The run. ----

no_gpu() {
    "$python" - <<PYTHON
try:
    import torch
    if not torch.cuda.is_available():
        print("torch finds no CUDA GPU on this machine")
except ImportError:
    print("torch is not installed for $python")
PYTHON
}

reason=$(no_gpu 2>/dev/null) || reason="$python: expected a Python that runs"
if [[ -n $dry || -n $reason ]]; then
    echo "Stages (limit in seconds; + beside each other), into $output:"
    while read -r name limit what; do
        [[ -n $name ]] && chosen "$name" && printf '  %-17s %5s  %s\n' "$name" "$limit" "$what"
    done <<<"$stages"
    [[ -z $reason ]] && exit 0
    printf 'Nothing was run: %s\n' "$reason" >&2
    exit 2
fi

mkdir -p "$output" && cd "$output" || exit 1
rm -f summary.txt ./*.result
self=$repository/scripts/gpu_check.sh
[[ $python == */* ]] && python=$(cd "$OLDPWD" && cd "$(dirname "$python")" && pwd)/$(basename "$python")
export PYTHON=$python

# Runs a stage within its limit; its log and one line of result are left.
run_stage() {
    local name=$1 limit=${2%+} started=$SECONDS status result note
    timeout --kill-after=10 "$limit" bash "$self" --run-stage "$name" >"$name.log" 2>&1
    status=$?
    case $status in
        0) result=passed ;;
        77) result=skipped ;;
        124 | 137) result="TOO LONG" ;;
        *) result=FAILED ;;
    esac
    note=$(grep -vE '^\s*$' "$name.log" | tail -n 1 | cut -c 1-110)
    printf '%-17s %-9s %4d s  %s\n' "$name" "$result" $((SECONDS - started)) "$note" | tee "$name.result"
}

together=()
finish_together() {
    ((${#together[@]})) && wait "${together[@]}"
    together=()
}
begun=$SECONDS built=1
while read -r name limit what; do
    [[ -n $name ]] && chosen "$name" || continue
    if [[ $name != look && $name != build ]] && ((!built)); then
        printf '%-17s skipped      0 s  the build failed\n' "$name" | tee "$name.result"
    elif [[ $limit == *+ ]]; then
        run_stage "$name" "$limit" &
        together+=($!)
    else
        finish_together
        run_stage "$name" "$limit"
        [[ $name == build ]] && ! grep -q ' passed ' build.result && built=0
    fi
done <<<"$stages"
finish_together

{
    printf 'stage             result    time    last line of its log (%s)\n' "$PWD"
    names | while read -r name; do [[ -e $name.result ]] && cat "$name.result"; done
    printf 'all of it took %d s\n' $((SECONDS - begun))
} >summary.txt
echo
cat summary.txt
! grep -qE '^[a-z_]+ +(FAILED|TOO LONG)' summary.txt
