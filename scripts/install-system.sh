#!/bin/sh
# Installs the Debian packages that are missing: exiftool, venv for the Python named, and with `test` what only
# tests need (systemd-analyze). Usage: install-system.sh PYTHON [test]
set -eu
python=${1:-python3}

missing=""
command -v exiftool >/dev/null 2>&1 || missing="$missing libimage-exiftool-perl"
"$python" -c 'import ensurepip, venv' >/dev/null 2>&1 || missing="$missing $(basename "$(readlink -f "$(command -v "$python")")")-venv"
if [ "${2:-}" = test ]; then
	command -v systemd-analyze >/dev/null 2>&1 || missing="$missing systemd"
fi
[ -z "$missing" ] && exit 0

if ! command -v apt-get >/dev/null 2>&1; then
	echo "These are missing and this is not a Debian system; please install them:$missing" >&2
	exit 1
fi
sudo=""
[ "$(id -u)" -eq 0 ] || sudo="sudo"
echo "Installing:$missing" >&2
$sudo apt-get update -qq
# shellcheck disable=SC2086 # a list of package names
DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends $missing >/dev/null
