#!/bin/sh
# Make $VENV (.venv) when it is missing, with uv where it is installed, and install this package with one of its extras,
# within the versions that the file $CONSTRAINTS gives.
set -eu
extra=$1
python=${PYTHON:-python3}
venv=${VENV:-.venv}
within=${CONSTRAINTS:+--constraint $CONSTRAINTS}

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "metricx_observe needs Python 3.11 or newer, and $python is $("$python" -V 2>&1)." >&2
    echo "Type: make demo PYTHON=python3.11 (or the path of a newer one)" >&2
    exit 1
}

if command -v uv >/dev/null 2>&1; then
    [ -x "$venv"/bin/python ] || uv venv --quiet --python "$python" "$venv"
    uv pip install --quiet --compile-bytecode --python "$venv"/bin/python $within -e ".[$extra]"
else
    [ -x "$venv"/bin/python ] || "$python" -m venv "$venv" || {
        echo "python -m venv failed. On Debian and Ubuntu type: apt-get install python3-venv" >&2
        exit 1
    }
    [ -x "$venv"/bin/pip ] || "$venv"/bin/python -m ensurepip --upgrade >/dev/null
    echo "installing into $venv (a minute the first time)"
    "$venv"/bin/python -m pip install --quiet --disable-pip-version-check $within -e ".[$extra]"
fi
