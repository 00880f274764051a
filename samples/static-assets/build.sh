#!/bin/sh
# Checks the assets and puts what is deployed into dist/.
set -eu

for page in assets/*.html; do
    for link in $(sed -n 's/.*\(href\|src\)="\([^":]*\)".*/\2/p' "$page"); do
        if [ ! -f "assets/$link" ]; then
            echo "$page refers to $link, which does not exist" >&2
            exit 1
        fi
    done
done

rm -rf dist
mkdir dist
cp -R assets deploy.sh observe.sh rollback.sh dist/
