#!/bin/sh
# Installs what the acceptance test with a real digiKam needs and is missing (about 1.3 GB with what it depends on).
set -eu

missing=""
command -v digikam >/dev/null 2>&1 || missing="$missing digikam"
command -v Xvfb >/dev/null 2>&1 || missing="$missing xvfb"
command -v dbus-daemon >/dev/null 2>&1 || missing="$missing dbus-daemon"
command -v dbus-send >/dev/null 2>&1 || missing="$missing dbus-bin"
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
