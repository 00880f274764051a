#!/bin/sh
# Tells what the target holds, as JSON on stdout. Healthy: every declared resource is as declared (no drift).
set -eu

if [ ! -f "$TIDEGATE_STATE_DIR/run_spec" ]; then
    echo '{"boxes": []}'
    exit 0
fi

run_spec=$(cat "$TIDEGATE_STATE_DIR/run_spec")
drifted=$(sed -e 's/#.*//' -e '/^[[:space:]]*$/d' "$TIDEGATE_STATE_DIR/stack.conf" |
    while read -r name properties; do
        file="$TIDEGATE_STATE_DIR/resources/$(echo "$name" | tr / .)"
        if [ ! -f "$file" ] || [ "$(cat "$file")" != "$properties" ]; then
            echo "$name"
        fi
    done | tr '\n' ' ')
if [ -z "$drifted" ]; then
    printf '{"boxes": [{"id": "stack", "run_spec": "%s", "healthy": true}]}\n' "$run_spec"
else
    printf '{"boxes": [{"id": "stack", "run_spec": "%s", "healthy": false, "reason": "drifted: %s"}]}\n' \
        "$run_spec" "${drifted% }"
fi
