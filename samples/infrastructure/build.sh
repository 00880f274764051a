#!/bin/sh
# Checks the stack and puts what is deployed into dist/.
set -eu

if sed -e 's/#.*//' -e '/^[[:space:]]*$/d' stack.conf | grep -vE '^[a-z]+/[a-z-]+([[:space:]]+[a-z-]+=[a-z0-9-]+)+[[:space:]]*$'; then
    echo "stack.conf: each line is a kind/name and properties such as read-units=20" >&2
    exit 1
fi

rm -rf dist
mkdir dist
cp stack.conf deploy.sh observe.sh rollback.sh dist/
