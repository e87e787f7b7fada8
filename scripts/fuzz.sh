#!/usr/bin/env bash
# Runs the libFuzzer targets that `make fuzz` has built, each for some seconds from its seeds and the files of
# tests/attacks; a crash is kept.
#   scripts/fuzz.sh SECONDS [TARGET...]      such as: scripts/fuzz.sh 600 png tiff
# JOBS=N runs so many at once. Under build/fuzz/runs/TARGET are the inputs that reached something new (a later run goes
# on from them), crashes and the log. A line for each target says what it did, and is kept in build/fuzz/runs/summary.txt;
# the exit status is 1 if one has crashed.
set -euo pipefail
cd "$(dirname "$0")/.."
(($# >= 1)) && [[ $1 =~ ^[1-9][0-9]*$ ]] || { printf 'Usage: %s SECONDS [TARGET...]\n' "$0" >&2; exit 2; }
seconds=$1
shift
binaries=build/fuzz/tests/fuzz
targets=("$@")
((${#targets[@]})) || mapfile -t targets < <(find $binaries -maxdepth 1 -name 'fuzz_*' -printf '%f\n' | sed 's/^fuzz_//' | sort)

# malloc refuses sizes that it does not have, as without the sanitizer; what was freed is kept back for a while only.
export ASAN_OPTIONS=allocator_may_return_null=1:quarantine_size_mb=16:malloc_context_size=8
export UBSAN_OPTIONS=print_stacktrace=1

run_target() {
    local target=$1 seconds=$2 folder=build/fuzz/runs/$1 options=() status=0 log
    log=$folder/log.txt
    mkdir -p "$folder/found" "$folder/crashes"
    [[ -e tests/fuzz/dictionaries/$target.dict ]] && options+=("-dict=tests/fuzz/dictionaries/$target.dict")
    "$binaries/fuzz_$target" -max_total_time="$seconds" -max_len=4096 -timeout=60 -rss_limit_mb=2048 \
        -print_final_stats=1 "${options[@]}" -artifact_prefix="$folder/crashes/" "$folder/found" \
        "tests/fuzz/corpus/$target" tests/attacks >"$log" 2>&1 || status=$?
    stat() { sed -n "s/^stat::$1: *//p" "$log" | tail -n 1; }
    printf '%-10s %10s inputs, %9s taken, %9s refused, %4d s: %s\n' "$target" "$(stat number_of_executed_units)" \
        "$(stat inputs_taken)" "$(stat inputs_refused)" "$seconds" \
        "$( ((status == 0)) && echo 'no crash' || echo "FAILED, see $log and $folder/crashes")" |
        tee -a build/fuzz/runs/summary.txt
    return "$status"
}

export -f run_target
export binaries
status=0
printf '%s\n' "${targets[@]}" |
    xargs --max-procs="${JOBS:-1}" --replace bash -c 'run_target "$0" "$1" || exit 1' {} "$seconds" || status=1
exit "$status"
