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

# The value of the first of the options that are left.
value_of() {
    (($# > 1)) || fail "$1 needs a value"
    echo "$2"
}

# An option that is not the script's own: its `usage` is printed, or the option refused.
other_option() {
    [[ $1 == -h || $1 == --help ]] || fail "unknown option '$1'; --help lists all"
    usage
    exit
}

# The first Python that can run `python -m deploy`.
find_python() {
    local candidate
    for candidate in "$root/.venv/bin/python" python3 python; do
        if "$candidate" -c 'import kubernetes, pydantic, tenacity, typer, yaml' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    fail "no Python with the packages of requirements.txt here; run 'make install' in $root"
}

version() {
    git describe --tags --always --dirty 2>/dev/null || echo unversioned
}

# The commit, with -dirty where the files are not the commit's; nothing outside of a checkout.
revision() {
    git describe --always --dirty --abbrev=40 --exclude='*' 2>/dev/null || true
}

data_sha256() {
    sha256sum data/qa_dataset.parquet | cut -d' ' -f1
}
