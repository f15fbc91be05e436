# Sourced by the scripts in this folder: where the repository is, its Python, how a script fails.
# shellcheck shell=bash

if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 404)); then
    echo "error: bash $BASH_VERSION is too old; 4.4 or later is needed (macOS: brew install bash)" >&2
    exit 2
fi
set -euo pipefail
shopt -s inherit_errexit

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
readonly root
cd "$root" || exit

fail() {
    echo "error: $*" >&2
    exit 2
}

# The value of an option: value_of --tag "$@" when the options left start with --tag.
value_of() {
    (($# > 2)) || fail "$1 needs a value"
    echo "$3"
}

# The first Python that can run `python -m deploy`.
find_python() {
    local candidate
    for candidate in "$root/.venv/bin/python" python3 python; do
        if "$candidate" -c 'import kubernetes, pydantic, typer, yaml' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    fail "no Python with the packages of requirements.txt here; run 'make install' in $root"
}

version() {
    git describe --tags --always --dirty 2>/dev/null || echo unversioned
}

revision() {
    git rev-parse HEAD 2>/dev/null || echo unknown
}

data_sha256() {
    sha256sum data/qa_dataset.parquet | cut -d' ' -f1
}
