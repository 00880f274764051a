#!/bin/sh
# Brings the target's resources to what stack.conf declares: makes what is missing, changes what differs, removes what
# is no longer declared. Here a resource is a file; a real stack calls its provider's tool instead. Idempotent, and
# cut off anywhere it goes on where it was. Used for rollback as well: then stack.conf is that of the release before.
set -eu

stack="$TIDEGATE_PACKAGE_DIR/stack.conf"
resources="$TIDEGATE_STATE_DIR/resources"
mkdir -p "$resources"

declared() {
    sed -e 's/#.*//' -e '/^[[:space:]]*$/d' "$stack"
}

declared | while read -r name properties; do
    file="$resources/$(echo "$name" | tr / .)"
    if [ ! -f "$file" ] || [ "$(cat "$file")" != "$properties" ]; then
        echo "$properties" > "$file.new"
        mv "$file.new" "$file"
        echo "set $name: $properties"
    fi
done

for file in "$resources"/*; do
    [ -f "$file" ] || continue
    if ! declared | cut -d ' ' -f 1 | tr / . | grep -qxF "$(basename "$file")"; then
        rm "$file"
        echo "removed $(basename "$file")"
    fi
done

# Last, when all of it is so: what the target now holds.
cp "$stack" "$TIDEGATE_STATE_DIR/stack.conf"
echo "$TIDEGATE_RUN_SPEC" > "$TIDEGATE_STATE_DIR/.run_spec.new"
mv "$TIDEGATE_STATE_DIR/.run_spec.new" "$TIDEGATE_STATE_DIR/run_spec"
