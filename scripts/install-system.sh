#!/bin/sh
# Installs the Debian packages that are missing: exiftool, and venv for the Python named; with `test` what only tests
# need, with `acceptance` a real digiKam (1.3 GB with what it depends on). Usage: install-system.sh PYTHON [test|acceptance]
set -eu
python=${1:-python3}
missing=""

need() { # need PROGRAM PACKAGE
	command -v "$1" >/dev/null 2>&1 || missing="$missing $2"
}

need exiftool libimage-exiftool-perl
"$python" -c 'import ensurepip, venv' >/dev/null 2>&1 || missing="$missing $(basename "$(readlink -f "$(command -v "$python")")")-venv"
case "${2:-}" in
test)
	need systemd-analyze systemd
	need systemd-nspawn systemd-container
	;;
acceptance)
	need digikam digikam
	need Xvfb xvfb
	need dbus-daemon dbus-daemon
	need dbus-send dbus-bin
	;;
esac
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
