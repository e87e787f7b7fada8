#!/usr/bin/env bash
# Installs clang with libFuzzer and the sanitizers, which `make fuzz` builds with, where apt-get can. Ends with
# status 1, and the reason, where there is none then.
set -euo pipefail
(($# == 0)) || { printf 'Usage: %s\n' "$0" >&2; exit 2; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
printf '#include <cstddef>\nextern "C" int LLVMFuzzerTestOneInput(const unsigned char*, std::size_t) { return 0; }\n' \
    >"$work/empty.cpp"
builds() { clang++ -fsanitize=fuzzer,address,undefined "$work/empty.cpp" -o "$work/empty" >"$work/log" 2>&1; }
fail() { printf 'clang with libFuzzer: %s\n' "$*" >&2; exit 1; }

builds && exit 0
command -v apt-get >/dev/null || fail "not found, and this is no Debian-like machine: $(tail -n 1 "$work/log")"
((EUID == 0)) || fail "not found; as root: apt-get install clang, and libclang-rt-VERSION-dev of its version"
export DEBIAN_FRONTEND=noninteractive
apt-get -q -q update || fail "apt-get update failed"
# libFuzzer is in a package of its own, which is named by clang's version.
version=$(apt-cache depends clang | sed -n 's/.*Depends: clang-\([0-9]*\)$/\1/p' | head -n 1)
printf 'Installing system packages: clang libclang-rt-%s-dev\n' "$version"
apt-get -q -q install --yes --no-install-recommends clang "libclang-rt-$version-dev" || fail "apt-get install failed"
builds || fail "$(tail -n 1 "$work/log")"
