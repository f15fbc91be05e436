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
  --images              remove the images built on this machine too
  --yes                 do not ask
  -h, --help            this text

Volumes, and the models on them, stay: `kubectl delete pvc NAME` removes one for good.
TEXT
}

profile=openshift-ai images=false options=()
while (($#)); do
    taken=2
    case $1 in
        --profile) profile=$(value_of "$@") ;;
        --set | --context | --namespace) options+=("$1" "$(value_of "$@")") ;;
        --images) images=true taken=1 ;;
        --yes) options+=("$1") taken=1 ;;
        *) other_option "$1" ;;
    esac
    shift "$taken"
done

remove_images() {
    local tool label=org.opencontainers.image.title=fieldcraft names
    for tool in podman docker; do
        command -v "$tool" >/dev/null || continue
        mapfile -t names < <("$tool" images --quiet --filter "label=$label" | sort -u)
        ((${#names[@]} == 0)) || "$tool" rmi --force "${names[@]}"
        echo "$tool: ${#names[@]} image(s) removed" >&2
    done
}

python=$(find_python)
"$python" -m deploy delete "$profile" "${options[@]}"
if $images; then remove_images; fi
