# shellcheck shell=bash
# Sourced by scripts that need the project installed; not to be run. Gives `ensure_venv EXTRA...` and `$venv`.
#
# The virtual environment is made once; it is installed into again only when pyproject.toml changed or the clone was
# moved (a stamp for each extra holds both). Two variables choose:
#   VENV=DIR              where it is (default: .venv in the clone)
#   PYTHON=/path/to/python  which interpreter makes it; one of another version than the one in it makes it anew

root="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)"
venv="${VENV:-$root/.venv}"

die() {
    printf '%s: %s\n' "$(basename -- "$0")" "$1" >&2
    exit 1
}

new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

version_of() {
    "$1" -c 'import sys; print(sys.version)' 2>/dev/null
}

find_python() {
    local candidate found
    if [ -n "${PYTHON:-}" ]; then
        new_enough "$PYTHON" || die "PYTHON=$PYTHON is not Python 3.11 or newer."
        printf '%s\n' "$PYTHON"
        return
    fi
    for candidate in python3 python3.13 python3.12 python3.11 python; do
        if new_enough "$candidate"; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    found="$( { python3 --version || true; } 2>&1 | tail -n 1)"
    die "Python 3.11 or newer is needed; found: ${found:-none}. PYTHON=/path/to/python chooses one."
}

usable_venv() {
    new_enough "$venv/bin/python" || return 1
    [ -z "${PYTHON:-}" ] || [ "$(version_of "$PYTHON")" = "$(version_of "$venv/bin/python")" ]
}

make_venv() {
    local python
    python="$(find_python)"
    [ ! -e "$venv" ] || [ -e "$venv/pyvenv.cfg" ] || die "$venv is there and is no virtual environment."
    "$python" -c 'import venv, ensurepip' >/dev/null 2>&1 \
        || die "$python has no venv or no pip (on Debian and Ubuntu: apt-get install python3-venv)."
    echo "Making $venv with $("$python" --version) ..."
    "$python" -m venv --clear "$venv" || die "making $venv failed, see above."
}

wanted_stamp() {
    printf '%s\n' "$root"
    cat -- "$root/pyproject.toml"
}

stamped() {
    local extra
    for extra in "$@"; do
        wanted_stamp | cmp -s - "$venv/stamp-$extra" || return 1
    done
}

ensure_venv() {
    local extra extras
    usable_venv || make_venv
    stamped "$@" && return
    "$venv/bin/python" -m pip --version >/dev/null 2>&1 || die "$venv has no pip; remove it and start again."
    extras="$(
        IFS=,
        printf '%s' "$*"
    )"
    echo "Installing router-daemon[$extras] into $venv (once; takes a minute) ..."
    for extra in "$@"; do rm -f -- "$venv/stamp-$extra"; done
    "$venv/bin/python" -m pip install -qq --disable-pip-version-check --editable "${root}[$extras]" \
        || die "pip could not install, see above."
    for extra in "$@"; do wanted_stamp >"$venv/stamp-$extra"; done
}
