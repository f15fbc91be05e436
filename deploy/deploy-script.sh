#!/usr/bin/env bash
# From a checkout to a trained model: check the cluster, build and push the image, start the job, follow it, fetch.
#
#   cd deploy && ./deploy-script.sh
#   deploy/deploy-script.sh --profile generic-gpu --registry quay.io/me --fetch model
start_folder=$PWD
# shellcheck source=deploy/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
    cat <<'TEXT'
Usage: deploy-script.sh [options]

  --profile NAME        a profile of deploy/clusters, or a .yaml file (default: openshift-ai)
  --registry REGISTRY   push REGISTRY/fieldcraft (default: where the profile's image lies)
  --tag TAG             tag of the image (default: git describe)
  --image IMAGE         use this image as it is: nothing is built
  --skip-build          use the profile's image as it is: nothing is built
  --base-image IMAGE    image to build on (default: the Dockerfile's, with CUDA)
  --base-model MODEL    bake a model in: embedded, OWNER/NAME[@REVISION] or models/FOLDER
  --tool TOOL           podman, buildah, docker, or oc: build in the cluster (default: oc for the cluster's own
                        registry, else the first that is installed)
  --set KEY=VALUE       change the profile or the run; may be repeated
  --context NAME        context of the kubeconfig
  --namespace NAME      default: the profile's
  --replace             replace a job of that name
  --yes                 do not ask
  --fetch DIR           fetch the model into DIR when the job is done
  --dry-run             say what would be done, print the manifests, change nothing
  -h, --help            this text

It can be run again at any time: what is built, pushed and started already stays as it is. Ctrl-C stops the script, not
the job. Exit code: that of the step that failed (`python -m deploy --help`), or of the training pod.
TEXT
}

profile=openshift-ai registry='' tag='' image='' tool='' fetch_folder=''
skip_build=false dry_run=false
build_options=() cluster_options=() settings=() apply_options=()

while (($#)); do
    taken=2
    case $1 in
        --profile) profile=$(value_of "$@") ;;
        --registry) registry=$(value_of "$@") ;;
        --tag) tag=$(value_of "$@") ;;
        --image) image=$(value_of "$@") ;;
        --tool) tool=$(value_of "$@") ;;
        --fetch) fetch_folder=$(value_of "$@") ;;
        --base-image | --base-model) build_options+=("$1" "$(value_of "$@")") ;;
        --context | --namespace) cluster_options+=("$1" "$(value_of "$@")") ;;
        --set) settings+=("$1" "$(value_of "$@")") ;;
        --replace | --yes) apply_options+=("$1") taken=1 ;;
        --skip-build) skip_build=true taken=1 ;;
        --dry-run) dry_run=true taken=1 ;;
        *) other_option "$1" ;;
    esac
    shift "$taken"
done
# Paths are the caller's, though everything runs from the repository.
[[ -z $fetch_folder || $fetch_folder == /* ]] || fetch_folder=$start_folder/$fetch_folder
[[ $profile != *.y*ml || $profile == /* ]] || profile=$start_folder/$profile

python=$(find_python)
readonly python profile

step() { echo "== $*" >&2; }

# Do it, or in a dry run say it.
run() {
    if $dry_run; then
        echo "would run: $*" >&2
    else
        "$@"
    fi
}

deploy() {
    local command=$1
    shift
    run "$python" -m deploy "$command" "$profile" "${cluster_options[@]}" "${settings[@]}" "$@"
}

# What an interrupted script leaves behind depends on how far it got.
stage='nothing was started in the cluster'
on_exit() {
    local code=$?
    ((code != 130)) || printf '\nstopped: %s\n' "$stage" >&2
}
trap on_exit EXIT
trap 'exit 130' INT

profile_image() {
    "$python" - "$profile" "${settings[@]}" <<'PYTHON'
import sys
from deploy.errors import DeployError
from deploy.profile import plan_deployment
try:
    print(plan_deployment(sys.argv[1], settings=sys.argv[3::2]).profile.image)
except DeployError as error:
    print(f"error: {error} [exit {int(error.exit_code)}]", file=sys.stderr)
    sys.exit(int(error.exit_code))
PYTHON
}

# name:tag@digest -> name; the port of a registry is not a tag.
repository_of() {
    local name=${1%%@*}
    [[ ${name##*/} != *:* ]] || name=${name%:*}
    echo "$name"
}

# Sets `image`, pinned by its digest: as given, as the profile has it, or built now.
find_image() {
    if [[ -z $image ]]; then
        image=$(profile_image)
        $skip_build || build_image
    fi
    [[ $image == *@sha256:* ]] || echo "note: $image is a tag, not a digest: what it means can change" >&2
}

build_image() {
    local repository
    repository=$(repository_of "$image")
    [[ -z $registry ]] || repository=${registry%/}/fieldcraft
    local name=$repository:${tag:-$(version)}
    # The cluster's own registry takes pushes from inside alone.
    [[ -n $tool || $repository != *.svc[:/]* ]] || tool=oc
    step "image $name${tool:+, with $tool}"
    local builder=(deploy/build-image.sh --tag "$name" --push)
    [[ -z $tool ]] || builder+=(--tool "$tool")
    if [[ $tool == oc ]]; then
        builder=(deploy/build-in-cluster.sh --name "$name" "${cluster_options[@]}")
    fi
    if $dry_run; then
        run "${builder[@]}" "${build_options[@]}"
        image=$name
    else
        image=$("${builder[@]}" "${build_options[@]}")
    fi
}

main() {
    # Before minutes of building: a cluster that cannot run the job is told at once.
    step "cluster, profile $profile"
    deploy preflight
    find_image
    step "job with $image"
    if $dry_run; then
        "$python" -m deploy render "$profile" "${settings[@]}" --image "$image" "${namespace_option[@]}"
    fi
    stage="perhaps after the job was started; '$again status $same' tells"
    deploy apply --image "$image" "${apply_options[@]}"
    stage="the job goes on. See it with '$again watch $same', end it with 'deploy/cleanup.sh --profile $same'"
    step "following; Ctrl-C leaves the job alone"
    deploy watch
    if [[ -n $fetch_folder ]]; then
        stage="fetch again to go on where it stopped: $again fetch $same --output $fetch_folder"
        step "model into $fetch_folder"
        deploy fetch --image "$image" --output "$fetch_folder"
    fi
}

namespace_option=()
for ((i = 0; i < ${#cluster_options[@]}; i += 2)); do
    [[ ${cluster_options[i]} != --namespace ]] || namespace_option=("${cluster_options[@]:i:2}")
done
again="${python#"$root/"} -m deploy"
same=$(printf '%q ' "$profile" "${cluster_options[@]}" "${settings[@]}")
same=${same% }
main
