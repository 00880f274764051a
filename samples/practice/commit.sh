#!/bin/sh
# commit.sh FOLDER MESSAGE: commits all of a folder as alice, and prints the commit.
set -eu
cd "$1"
[ -d .git ] || git init -q -b main
git add -A
git -c user.name=alice -c user.email=alice@acme.test commit -q -m "$2"
git rev-parse HEAD
