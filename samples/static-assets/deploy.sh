#!/bin/sh
# Brings the target to the assets of this package. Idempotent: a second run finds everything in place. Used for
# rollback as well: then the package is the one that the target held before.
set -eu

releases="$TIDEGATE_STATE_DIR/releases"
release="$releases/$TIDEGATE_RUN_SPEC"
mkdir -p "$releases"

if ! (cd "$release" && sha256sum --check --status .manifest) 2> /dev/null; then
    # Complete under another name first: a run that is cut off leaves no half release.
    new=$(mktemp -d "$releases/.new.XXXXXX")
    cp -R "$TIDEGATE_PACKAGE_DIR/assets/." "$new"
    (cd "$new" && find . -type f ! -name .manifest -exec sha256sum {} + > .manifest)
    chmod 755 "$new"
    rm -rf "$release"
    mv "$new" "$release"
fi

# One rename switches from all old files to all new ones.
ln -sfn "releases/$TIDEGATE_RUN_SPEC" "$TIDEGATE_STATE_DIR/.current.new"
mv -T "$TIDEGATE_STATE_DIR/.current.new" "$TIDEGATE_STATE_DIR/current"
rm -rf "$releases"/.new.*
echo "static assets $TIDEGATE_RUN_SPEC are live in $TIDEGATE_REGION/$TIDEGATE_AZ"
