#!/usr/bin/env bash
# Build the training image: the Dockerfile with labels, this machine's pip settings and the tool that is there.
#
#   deploy/build-image.sh --tag localhost/fieldcraft:dev --base-model embedded

# shellcheck source=deploy/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
    cat <<'TEXT'
Usage: deploy/build-image.sh [options]

  --tag NAME:TAG        name of the image (default: localhost/fieldcraft:VERSION, VERSION by git describe)
  --base-image IMAGE    image to build on (default: the Dockerfile's, with CUDA; BASE_IMAGE)
  --base-model MODEL    bake a model in: embedded, OWNER/NAME[@REVISION] or models/FOLDER (default: none; BASE_MODEL)
  --target STAGE        stop at this stage of the Dockerfile (default: the whole)
  --tool TOOL           podman, buildah or docker (default: the first of them that is installed)
  --push                push it to the registry in its name (not localhost/...) and print it with its digest
  -h, --help            this text

A gated model is downloaded with the token in HF_TOKEN. BUILDAH_ISOLATION=chroot builds where containers cannot be run.
Prints the image's name; everything else goes to stderr.
TEXT
}

version=$(version)
tag=localhost/fieldcraft:$version
base_image=${BASE_IMAGE:-}
base_model=${BASE_MODEL:-}
target='' tool='' push=false

while (($#)); do
    taken=2
    case $1 in
        --tag) tag=$(value_of "$@") ;;
        --base-image) base_image=$(value_of "$@") ;;
        --base-model) base_model=$(value_of "$@") ;;
        --target) target=$(value_of "$@") ;;
        --tool) tool=$(value_of "$@") ;;
        --push) push=true taken=1 ;;
        *) other_option "$1" ;;
    esac
    shift "$taken"
done

# Where pip finds packages here, for pip in there: settings as a file that only the build sees, local folders mounted.
pip_settings=(index-url extra-index-url find-links trusted-host no-index cert)
write_pip_conf() {
    local python=$root/.venv/bin/python line key value
    [[ -x $python ]] || python=python3
    declare -A settings=()
    while IFS= read -r line; do # key='value'; what the environment says comes first and wins
        key=${line%%=*}
        key=${key##*.}
        value=${line#*=}
        value=${value:1:-1}
        settings[$key]=${settings[$key]:-${value//\\n/ }}
    done < <("$python" -m pip config list 2>/dev/null)
    echo '[global]'
    for key in "${pip_settings[@]}"; do
        [[ -z ${settings[$key]:-} ]] || echo "$key = ${settings[$key]}"
    done
}

# The files and folders that a pip.conf names; of a folder laid out as an index, the one that holds its files too.
local_places() {
    local word
    while read -r word; do
        word=${word#file://}
        [[ $word == /* && -e $word ]] || continue
        [[ $word == */simple ]] && word=${word%/simple}
        echo "$word"
    done < <(tail -n +2 "$1" | cut -d= -f2- | tr ' ' '\n') | sort -u
}

pick_tool() {
    local candidate
    for candidate in podman buildah docker; do
        ! command -v "$candidate" >/dev/null || { echo "$candidate" && return; }
    done
    fail "no podman, buildah or docker here; install one, or --tool oc of deploy-script.sh builds in an OpenShift cluster"
}

tool=${tool:-$(pick_tool)}
command -v "$tool" >/dev/null || fail "'$tool' is not installed"

settings_folder=$(mktemp -d)
trap 'rm -rf "$settings_folder"' EXIT
write_pip_conf >"$settings_folder/pip.conf"

arguments=(
    --tag "$tag"
    --build-arg "REVISION=$(revision)"
    --build-arg "VERSION=$version"
    --build-arg "BASE_MODEL=$base_model"
    --build-arg "DATA_SHA256=$(data_sha256)"
    --secret "id=pip_conf,src=$settings_folder/pip.conf"
)
[[ -z $base_image ]] || arguments+=(--build-arg "BASE_IMAGE=$base_image")
[[ -z $target ]] || arguments+=(--target "$target")
[[ -z ${HF_TOKEN:-} ]] || arguments+=(--secret "id=hf_token,env=HF_TOKEN")
mapfile -t places < <(local_places "$settings_folder/pip.conf")
case $tool in
    docker)
        command=(docker build)
        ((${#places[@]} == 0)) || echo "note: docker build cannot mount ${places[*]}; pip inside does without" >&2
        ;;
    podman | buildah)
        command=("$tool" build --layers)
        for place in "${places[@]}"; do arguments+=(--volume "$place:$place:ro"); done
        ;;
    *) fail "cannot build with '$tool'; podman, buildah and docker can" ;;
esac

# name:tag -> name@digest, the digest being the registry's; of localhost/ images the one in this machine's store.
pinned() {
    local repository=${1%:*} digest=''
    if [[ $tool == docker ]]; then
        [[ $1 == localhost/* ]] || docker push --quiet "$1" >&2
        # Empty for a local image: docker knows digests of pushed ones alone.
        digest=$(docker image inspect --format '{{range .RepoDigests}}{{println .}}{{end}}' "$1" |
            sed -n "s|^$repository@||p" | head -1)
        [[ -n $digest || $1 != localhost/* ]] || { echo "$1" && return; }
    elif [[ $1 == localhost/* ]]; then
        digest=$("$tool" images --format '{{.Digest}}' "$1")
    else
        # A registry on this very machine has no certificate; docker takes it so too.
        local tls=true
        [[ $1 != localhost:* && $1 != 127.0.0.1:* ]] || tls=false
        "$tool" push --tls-verify="$tls" --digestfile "$settings_folder/digest" "$1" >&2
        digest=$(<"$settings_folder/digest")
    fi
    [[ $digest == sha256:* ]] || fail "$tool did not say the digest of $1, so it cannot be pinned"
    echo "$repository@$digest"
}

"${command[@]}" "${arguments[@]}" . >&2
if $push; then pinned "$tag"; else echo "$tag"; fi
