#!/usr/bin/env bash
# Makes a virtual environment with pinned dependencies and this checkout installed in it (editable).
#   scripts/make_environment.sh FOLDER      PYTHON=python3.12 chooses the interpreter
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$1
python=${PYTHON:-python3}

say() { printf '\n== %s\n' "$*"; }
fail() { printf 'Error: %s\n' "$*" >&2; exit 2; }

command -v "$python" >/dev/null || fail "$python: expected Python 3.11 or newer on the path"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$python: expected Python 3.11 or newer, got $("$python" --version)"

command -v "${CXX:-c++}" >/dev/null || fail "${CXX:-c++}: expected a C++ compiler: apt-get install g++"

if ! "$folder/bin/python" -m pip --version >/dev/null 2>&1; then
    say "Creating the virtual environment $folder with $("$python" --version)"
    # Debian splits ensurepip off into python3-venv; with pip itself at hand that is no obstacle.
    if ! "$python" -c 'import ensurepip' 2>/dev/null; then
        "$python" -m pip --version >/dev/null 2>&1 ||
            fail "$python has neither ensurepip nor pip: apt-get install python3-venv"
        "$python" -m venv --without-pip "$folder"
        "$python" -m pip --python "$folder/bin/python" install --quiet pip
    else
        "$python" -m venv "$folder"
    fi
fi

say "Installing pinned dependencies (PyTorch is the bulk of it: some GB to download the first time)"
"$folder/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes \
    --requirement requirements/dev.txt
say "Fetching the headers of ONNX Runtime, for the library of its operators"
scripts/onnxruntime_headers.sh "$folder/include/onnxruntime" ||
    echo "Going on without: exported files with fused operators will run their standard operators"
say "Building and installing pe_runtime"
"$folder/bin/python" -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable .
touch "$folder/.installed"
