#!/usr/bin/env bash
# The image of the container tests: this checkout on a small Debian with Python. Prints its name with its digest.
#
# Both are kept in podman's store: the second time it takes seconds, and after a change of code alone, half a minute.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

base=localhost/fieldcraft-test-base:bookworm

make_base() {
    local folder
    folder=$(mktemp -d)
    debootstrap --variant=minbase --include=python3,python3-pip bookworm "$folder" http://deb.debian.org/debian >&2
    rm -rf "$folder"/var/cache/apt/* "$folder"/var/lib/apt/lists/*
    tar -C "$folder" --exclude './dev/*' -c . | podman import --quiet - "$base" >&2
    rm -rf "$folder"
}

podman image exists "$base" || make_base
# Where containers cannot be started in a build (no user namespaces, old cgroups), a chroot will do.
export BUILDAH_ISOLATION=${BUILDAH_ISOLATION:-chroot}
deploy/build-image.sh --tool buildah --base-image "$base" --base-model embedded --tag localhost/fieldcraft:test --push
