#!/usr/bin/env bash
# Puts the C headers of ONNX Runtime into a folder: no wheel has them, Debian's libonnxruntime-dev does.
#   scripts/onnxruntime_headers.sh FOLDER      afterwards FOLDER/onnxruntime_c_api.h is there
# The package is unpacked, not installed, and nothing of the system changes: no root needed. Ends with status 1,
# and the reason, where the headers cannot be had.
set -euo pipefail
(($# == 1)) || { printf 'Usage: %s FOLDER\n' "$0" >&2; exit 2; }
folder=$1
package=libonnxruntime-dev
# The first release of Debian that has the package.
suite=trixie

fail() {
    printf 'ONNX Runtime headers: %s\n' "$*" >&2
    exit 1
}

[[ -e $folder/onnxruntime_c_api.h ]] && exit 0
for command in apt-get dpkg-deb; do
    command -v "$command" >/dev/null || fail "$command: command not found; this is no Debian-like machine"
done
[[ -r /etc/os-release ]] || fail "/etc/os-release: expected the name of the system"
release=$(. /etc/os-release && printf '%s:%s' "${ID:-}" "${VERSION_CODENAME:-}")

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/{lists/partial,sources,package}
# The machine's own sources, with the suite replaced on Debians that are older: the package is only headers.
for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.{list,sources}; do
    [[ -e $file ]] || continue
    case $release in
        debian:bookworm | debian:bullseye) sed "s/\b${release#*:}\b/$suite/g" "$file" ;;
        *) cat "$file" ;;
    esac >"$work/sources/$(basename "$file")"
done
apt() {
    apt-get -q -q -o Dir::State::lists="$work/lists" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= \
        -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$work/sources" \
        -o Acquire::Languages=none "$@"
}
apt update >"$work/log" 2>&1 || fail "apt-get update failed: $(tail -n 1 "$work/log")"
(cd "$work" && apt -o APT::Sandbox::User=root download "$package") >"$work/log" 2>&1 ||
    fail "$package: $(tail -n 1 "$work/log")"
dpkg-deb --extract "$work"/"$package"_*.deb "$work/package"
header=$(find "$work/package" -name onnxruntime_c_api.h -print -quit)
[[ -n $header ]] || fail "$package: expected onnxruntime_c_api.h in it"

# Whole or not at all.
mkdir -p "$(dirname "$folder")"
rm -rf "$folder.new"
cp -r "$(dirname "$header")" "$folder.new"
rm -rf "$folder"
mv "$folder.new" "$folder"
