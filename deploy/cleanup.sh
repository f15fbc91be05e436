#!/usr/bin/env bash
# Remove what deploy-script.sh left: the job with its pods and network policy, and if asked the images on this machine.
#
#   deploy/cleanup.sh --profile cpu-smoke --images
# shellcheck source=deploy/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
    cat <<'TEXT'
Usage: cleanup.sh [options]

  --profile NAME        a profile of deploy/clusters (default: openshift-ai)
  --set KEY=VALUE       as given to deploy-script.sh
  --context NAME, --namespace NAME
  --images              remove the images built on this machine too; one that a container uses stays
  --yes                 do not ask
  -h, --help            this text

Volumes, and the models on them, stay: `kubectl delete pvc NAME` removes one for good.
TEXT
}

profile=openshift-ai images=false yes=false options=()
while (($#)); do
    taken=2
    case $1 in
        --profile) profile=$(value_of "$@") ;;
        --set | --context | --namespace) options+=("$1" "$(value_of "$@")") ;;
        --images) images=true taken=1 ;;
        --yes) options+=("$1") yes=true taken=1 ;;
        *) other_option "$1" ;;
    esac
    shift "$taken"
done

confirm() {
    local answer
    ! $yes || return 0
    [[ -t 0 ]] || fail "nobody is there to ask. Add --yes"
    read -r -p "$1 [y/N] " answer
    [[ $answer == [yY]* ]] || fail "left as they are"
}

# What a tool lists of the images that the Dockerfile here has labelled.
labelled() {
    local tool=$1
    shift
    "$tool" images --filter label=org.opencontainers.image.title=fieldcraft "$@"
}

# Never by force, which would take containers along.
remove() {
    local tool=$1 each
    [[ -n $2 ]] || return 0
    mapfile -t each <<<"$2"
    "$tool" rmi "${each[@]}" >&2
}

remove_images() {
    local tool=$1 format='{{.Repository}}:{{.Tag}}' names ids
    [[ $tool != buildah ]] || format='{{.Name}}:{{.Tag}}'
    names=$(labelled "$tool" --format "$format")
    if [[ -z $names ]]; then
        echo "$tool: no images" >&2
        return
    fi
    echo "$names" >&2
    confirm "Remove these images from $tool?"
    remove "$tool" "$(sed '/<none>/d' <<<"$names")"
    ids=$(labelled "$tool" --quiet) # those that never had a name
    remove "$tool" "$(sort -u <<<"$ids")"
    echo "$tool: $(wc -l <<<"$names") image(s) removed" >&2
}

python=$(find_python)
"$python" -m deploy delete "$profile" "${options[@]}"
$images || exit 0
tools=(podman docker)
command -v podman >/dev/null || tools=(buildah docker) # podman's store is buildah's too
for tool in "${tools[@]}"; do
    ! command -v "$tool" >/dev/null || remove_images "$tool"
done
