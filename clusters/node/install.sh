#!/usr/bin/env bash
# Gives a node the packages that jobs need, at the versions of constraints.txt. Our code is not among them: it comes with
# each job (`ray job submit --working-dir .`).
#
#   install.sh [EXTRA ...]     default: serve dali beam flac containers tune
#
# pyproject.toml, constraints.txt and requirements.py must lie beside this script. A Python on the PATH that has it all is left
# as it is; otherwise a virtual environment is made in JASPER_RAY_ENV (default ~/jasper_ray_env). Start Ray with
# `export PATH=~/jasper_ray_env/bin:$PATH`.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
environment=${JASPER_RAY_ENV:-$HOME/jasper_ray_env}
extras=("$@")
[ ${#extras[@]} -gt 0 ] || extras=(serve dali beam flac containers tune)

if python "$here/requirements.py" --check "${extras[@]}" >/dev/null 2>&1; then
    echo "$(command -v python) has every package"
    exit 0
fi

base=""
for candidate in python3.12 python3.11 python3; do
    if command -v "$candidate" >/dev/null && "$candidate" -c \
        'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then
        base=$candidate
        break
    fi
done
if [ -z "$base" ]; then
    echo "error: no Python 3.11 or 3.12 with venv on this node: apt-get install python3 python3-venv" >&2
    exit 1
fi
# `ray up` runs this again whenever it starts: nothing to do then.
[ -x "$environment/bin/python" ] || "$base" -m venv "$environment"
python=$environment/bin/python
if "$python" "$here/requirements.py" --check "${extras[@]}"; then
    exit 0
fi
list=$(mktemp)
trap 'rm -f "$list"' EXIT
"$python" "$here/requirements.py" "${extras[@]}" >"$list"
"$python" -m pip install --quiet --disable-pip-version-check 'torch==2.13.0'
"$python" -m pip install --quiet --disable-pip-version-check -c "$here/constraints.txt" -r "$list"
"$python" "$here/requirements.py" --check "${extras[@]}"
