#!/usr/bin/env bash
# Installs the system's packages that the C library and pe_gate are built from, where apt-get can; says what is missing
# where it cannot. Without them the build leaves these two out. Ends with status 1 if something is missing then.
set -euo pipefail
(($# == 0)) || { printf 'Usage: %s\n' "$0" >&2; exit 2; }

packages=(nlohmann-json3-dev libcli11-dev libpng-dev libjpeg-dev libtiff-dev libwebp-dev liblcms2-dev
          zlib1g-dev libssl-dev)

if ! command -v dpkg-query >/dev/null; then
    printf 'System packages: this is no Debian-like machine; the C library needs nlohmann_json, and pe_gate\n' >&2
    printf 'CLI11, libpng, zlib, libjpeg-turbo, libtiff, libwebp (with libwebpdemux), littlecms and OpenSSL, with headers\n' >&2
    exit 1
fi
missing=()
for package in "${packages[@]}"; do
    dpkg-query --show --showformat '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed ||
        missing+=("$package")
done
((${#missing[@]} == 0)) && exit 0
if ((EUID != 0)); then
    printf 'System packages are missing; as root: apt-get install %s\n' "${missing[*]}" >&2
    exit 1
fi
printf 'Installing system packages: %s\n' "${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get -q -q update
apt-get -q -q install --yes --no-install-recommends "${missing[@]}"
