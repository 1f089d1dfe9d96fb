#!/bin/sh
# Install wsi_seg into /opt/wsi-seg from the checkout that is the current folder; Dockerfile and wsi-seg.def run it.
#   TORCH=cpu EXTRAS=cloud,train sh scripts/containers/install.sh dependencies
#   sh scripts/containers/install.sh package
# TORCH is cuda, the build of the Python package index, or a --torch-backend of uv, which knows PyTorch's indexes.
set -eu

uv_version=0.13.9
venv=/opt/wsi-seg
here=scripts/containers
export UV_NO_CACHE=1 UV_PYTHON_DOWNLOADS=never VIRTUAL_ENV=$venv

case ${1:-} in
dependencies)
    python3 -m venv /opt/uv
    /opt/uv/bin/pip install --quiet --no-cache-dir --disable-pip-version-check "uv==$uv_version"
    /opt/uv/bin/uv venv --python /usr/bin/python3 "$venv"
    set -- --requirements pyproject.toml --constraints "$here/constraints.txt" --compile-bytecode
    for extra in $(echo "$EXTRAS" | tr ',' ' '); do
        set -- "$@" --extra "$extra"
    done
    if [ "$TORCH" != cuda ]; then
        set -- "$@" --torch-backend "$TORCH"
    fi
    /opt/uv/bin/uv pip install "$@"
    ;;
package)
    /opt/uv/bin/uv pip install --no-deps --compile-bytecode --build-constraints "$here/constraints.txt" .
    missing=$(find "$venv/lib" -path '*/wsi_seg/viewer/static/MISSING.txt' -exec cat {} +)
    if [ -n "$missing" ]; then
        echo "install.sh: the viewer is incomplete: $missing" >&2
        exit 1
    fi
    ;;
*)
    echo "install.sh: ${1:-no step}: name one, dependencies or package" >&2
    exit 2
    ;;
esac
