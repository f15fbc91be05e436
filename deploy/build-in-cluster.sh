#!/usr/bin/env bash
# Build the training image in an OpenShift cluster, from the files here, into the cluster's own registry. Needs oc only.
#
#   deploy/build-in-cluster.sh --name image-registry.openshift-image-registry.svc:5000/PROJECT/fieldcraft:1
# shellcheck source=deploy/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
    cat <<'TEXT'
Usage: deploy/build-in-cluster.sh --name REGISTRY/PROJECT/NAME:TAG [options]

  --base-image IMAGE, --base-model MODEL    as in build-image.sh
  --context NAME, --namespace NAME          where to build (default: the PROJECT of the name)
  -h, --help                                this text

Prints the image's name with its digest; everything else goes to stderr.
TEXT
}

name='' namespace='' oc=(oc) arguments=()
while (($#)); do
    case $1 in
        --name) name=$(value_of "$@") ;;
        --namespace) namespace=$(value_of "$@") ;;
        --context) oc+=(--context "$(value_of "$@")") ;;
        --base-image) arguments+=(--build-arg "BASE_IMAGE=$(value_of "$@")") ;;
        --base-model) arguments+=(--build-arg "BASE_MODEL=$(value_of "$@")") ;;
        *) other_option "$1" ;;
    esac
    shift 2
done

[[ $name == */*/*:* ]] || fail "--name must be REGISTRY/PROJECT/NAME:TAG, not '$name'"
command -v oc >/dev/null || fail "oc is not installed; it builds in the cluster. Or push to a --registry with podman"
path=${name#*/}
build=${path##*/}
build=${build%:*}
tag=${name##*:}
oc+=(--namespace "${namespace:-${path%%/*}}")

# What the Dockerfile takes, and no more: all of the folder would carry .venv and outputs along.
files=(Dockerfile .dockerignore LICENSE requirements.txt data train inference)
[[ ! -d models ]] || files+=(models)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
tar --exclude __pycache__ -czf "$folder/context.tar.gz" "${files[@]}"

"${oc[@]}" get buildconfig "$build" >/dev/null 2>&1 ||
    "${oc[@]}" new-build --name "$build" --binary --strategy docker >&2
"${oc[@]}" start-build "$build" --from-archive "$folder/context.tar.gz" --follow --wait \
    --build-arg "VERSION=$(version)" --build-arg "REVISION=$(revision)" --build-arg "DATA_SHA256=$(data_sha256)" \
    "${arguments[@]}" >&2
"${oc[@]}" tag "$build:latest" "$build:$tag" >&2
"${oc[@]}" get imagestreamtag "$build:latest" --output 'jsonpath={.image.dockerImageReference}{"\n"}'
